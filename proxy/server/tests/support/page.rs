//! The metrics page: fetched, and read strictly.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::bounded;

/// GET over plain HTTP/1.1; (status, body).
pub async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    bounded("an admin page", async {
        let mut stream = TcpStream::connect(address).await.expect("the admin port");
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .expect("a status");
        (status, body.to_owned())
    })
    .await
}

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub value: f64,
}

/// A page of the text exposition format, version 0.0.4.
#[derive(Clone, Debug)]
pub struct Page {
    pub samples: Vec<Sample>,
    /// (family, type).
    pub types: Vec<(String, String)>,
}

impl Page {
    pub async fn fetch(admin: SocketAddr) -> Self {
        let (status, text) = get(admin, "/metrics").await;
        assert_eq!(status, 200, "{text}");
        Self::parse(&text).unwrap_or_else(|line| panic!("not the exposition format: {line}"))
    }

    /// # Errors
    /// The first line that is not of the format.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut page = Self {
            samples: Vec::new(),
            types: Vec::new(),
        };
        if !text.ends_with('\n') {
            return Err("the last line has no end".to_owned());
        }
        for line in text.lines().filter(|line| !line.is_empty()) {
            let parsed = match line.strip_prefix("# ") {
                Some(comment) => page.comment(comment),
                None => sample(line).map(|sample| page.samples.push(sample)),
            };
            parsed.ok_or_else(|| line.to_owned())?;
        }
        Ok(page)
    }

    fn comment(&mut self, comment: &str) -> Option<()> {
        let mut words = comment.splitn(3, ' ');
        let (keyword, name, rest) = (words.next()?, words.next()?, words.next()?);
        let known = ["counter", "gauge", "histogram", "summary", "untyped"];
        match keyword {
            "HELP" if is_name(name) && !rest.is_empty() => {}
            "TYPE" if is_name(name) && known.contains(&rest) => {
                self.types.push((name.to_owned(), rest.to_owned()))
            }
            _ => return None,
        }
        Some(())
    }

    /// The sum of all samples of `name` that carry all of `labels`; 0 without any.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &&Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.iter().any(|(k, v)| k == key && v == value))
        };
        self.samples
            .iter()
            .filter(has)
            .map(|sample| sample.value)
            .sum()
    }
}

fn is_name(name: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
    name.bytes().all(sound)
        && name
            .bytes()
            .next()
            .is_some_and(|first| !first.is_ascii_digit())
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        number => number.parse().ok()?,
    };
    let (name, labels) = match series.split_once('{') {
        None => (series, Vec::new()),
        Some((name, rest)) => (name, labels(rest.strip_suffix('}')?)?),
    };
    is_name(name).then(|| Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

fn labels(mut text: &str) -> Option<Vec<(String, String)>> {
    let mut labels = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut letters = rest.char_indices();
        let end = loop {
            match letters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match letters.next()?.1 {
                    'n' => '\n',
                    escaped @ ('\\' | '"') => escaped,
                    _ => return None,
                }),
                (_, letter) => value.push(letter),
            }
        };
        let sound = is_name(name) && !name.contains(':');
        let new = !labels.iter().any(|(other, _)| other == name);
        if !sound || !new {
            return None;
        }
        labels.push((name.to_owned(), value));
        let rest = rest.get(end + 1..)?;
        text = rest.strip_prefix(',').unwrap_or(rest);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
    Some(labels)
}
