//! HTTP/1.1 that different readers could read differently: at the server there is never more than was sent, never under
//! another name, and nothing that the server would not have taken itself.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use load_tests::control_plane::Credentials;
use serde_json::Value;

use crate::support::{AUDITED_NAMESPACE, HOUR, Plane, Proxy, Raw, plane, until};

/// Nobody has anything more to say after this.
const QUIET: Duration = Duration::from_secs(2);

/// Connections at a time.
const AT_ONCE: usize = 130;

/// What the server refuses and the proxy does not, and why that harms nobody.
const LENIENT: [(&str, &str); 2] = [
    (
        "an empty line first",
        "RFC 9112 section 2.2 has a server ignore it",
    ),
    (
        "a target with a fragment",
        "what follows # is lost before anything is decided; server and proxy see the same rest",
    ),
];

const CORPUS: &str = include_str!("corpus/http1.txt");

/// One case of the corpus.
struct Case {
    name: &'static str,
    /// How many requests may reach the server.
    most: usize,
    text: String,
}

fn corpus() -> Result<Vec<Case>> {
    let mut cases: Vec<Case> = Vec::new();
    for line in CORPUS.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            let (most, name) = title.split_once(' ').context("a case without a name")?;
            cases.push(Case {
                name,
                most: most.parse().with_context(|| title.to_owned())?,
                text: String::new(),
            });
        } else if !line.starts_with('#')
            && let Some(case) = cases.last_mut()
        {
            case.text.push_str(line);
        }
    }
    Ok(cases)
}

/// The bytes of a case whose paths bear `id`.
fn wire(case: &Case, id: &str) -> Result<Vec<u8>> {
    let path = |which| format!("/api/v1/namespaces/{AUDITED_NAMESPACE}/configmaps/{id}-{which}");
    let hidden = format!(
        "GET {} HTTP/1.1\r\nHost: k\r\nX-Remote-User: root\r\nX-Remote-Group: system:masters\r\n\r\n",
        path('b')
    );
    let text = case
        .text
        .replace("{a}", &path('a'))
        .replace("{b}", &path('b'))
        .replace("{n+5}", &(hidden.len() + 5).to_string())
        .replace("{n}", &hidden.len().to_string())
        .replace("{h}", &format!("{:x}", hidden.len()));
    // What is hidden has no escapes; line ends stand in it as they are.
    let mut bytes = Vec::new();
    let mut parts = text.split("{hidden}");
    unescape(parts.next().unwrap_or_default(), &mut bytes)?;
    for part in parts {
        bytes.extend(hidden.as_bytes());
        unescape(part, &mut bytes)?;
    }
    Ok(bytes)
}

fn unescape(text: &str, bytes: &mut Vec<u8>) -> Result<()> {
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            bytes.extend(letter.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        bytes.push(match letters.next() {
            Some('r') => b'\r',
            Some('n') => b'\n',
            Some('t') => b'\t',
            Some('0') => 0,
            Some('\\') => b'\\',
            Some('x') => {
                let digits: String = letters.by_ref().take(2).collect();
                u8::from_str_radix(&digits, 16)?
            }
            other => bail!("an escape {other:?} in {text:?}"),
        });
    }
    Ok(())
}

/// What became of one case, sent one way.
#[derive(Debug, Default)]
struct Outcome {
    /// The statuses of the answers, in their order.
    answers: Vec<String>,
    /// Who asked for what at the server.
    arrived: Vec<(String, String)>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, arrived: {:?}", self.answers, self.arrived)
    }
}

/// Sends `bytes` and reads until nothing more comes.
async fn exchange(mut connection: Raw, bytes: &[u8]) -> Result<Vec<String>> {
    // Refused before it was read to its end, the rest may no longer be taken.
    let _ = connection.send(bytes).await;
    connection.listen(QUIET).await;
    let said = connection.finish().await?;
    let said = String::from_utf8_lossy(&said);
    Ok(said
        .match_indices("HTTP/1.")
        .filter_map(|(at, _)| said.get(at + 9..at + 12))
        .filter(|status| status.bytes().all(|byte| byte.is_ascii_digit()))
        .map(str::to_owned)
        .collect())
}

/// The user and the path of every event about `id`.
fn arrived(events: &[Value], id: &str) -> Vec<(String, String)> {
    let wanted = format!("/{id}-");
    events
        .iter()
        .filter_map(|event| {
            let uri = event["requestURI"].as_str()?;
            let user = event["user"]["username"].as_str()?;
            uri.contains(&wanted)
                .then(|| (user.to_owned(), uri.to_owned()))
        })
        .collect()
}

/// Waits until everything that went before is in the audit log.
async fn events(plane: &Plane, proxy: &Proxy) -> Result<Vec<Value>> {
    let last = format!(
        "/api/v1/namespaces/{AUDITED_NAMESPACE}/configmaps/last-{}",
        crate::support::unique()
    );
    let client = proxy.client_as(plane, load_tests::control_plane::Who::Admin)?;
    client.get(&last).await?;
    Ok(until("the last request is in the audit log", async || {
        plane.audited(&last).map(|_| plane.all_audited())
    })
    .await)
}

fn lenient(name: &str) -> bool {
    LENIENT.iter().any(|(case, _)| *case == name)
}

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_read_in_the_stricter() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let jane = plane.client_certificate("jane", &["dev"], HOUR)?;
    let callers: [(&str, Option<&Credentials>, &str); 2] = [
        ("jane", Some(&jane), "jane"),
        ("nobody", None, "system:anonymous"),
    ];
    let corpus = corpus()?;
    assert!(corpus.len() > 80, "only {} cases", corpus.len());
    let mut waiting = Vec::new();
    for (number, case) in corpus.iter().enumerate() {
        for (caller, credentials, _) in &callers {
            for way in ["straight", "through"] {
                let id = format!("{number}-{caller}-{way}");
                waiting.push((id, case, *credentials, way));
            }
        }
    }
    let mut outcomes: BTreeMap<String, Outcome> = BTreeMap::new();
    for some in waiting.chunks(AT_ONCE) {
        let mut asked = Vec::new();
        for (id, case, credentials, way) in some {
            let connection = match *way {
                "straight" => Raw::straight(&plane, *credentials).await?,
                _ => proxy.raw(*credentials).await?,
            };
            let bytes = wire(case, id).with_context(|| case.name)?;
            let asking = tokio::spawn(async move { exchange(connection, &bytes).await });
            asked.push((id.clone(), asking));
        }
        for (id, asking) in asked {
            outcomes.entry(id).or_default().answers = asking.await??;
        }
    }
    let events = events(&plane, &proxy).await?;
    for (id, outcome) in &mut outcomes {
        outcome.arrived = arrived(&events, id);
    }
    let mut wrong = Vec::new();
    let mut stricter = 0;
    for (number, case) in corpus.iter().enumerate() {
        for (caller, _, user) in &callers {
            let of = |way| &outcomes[&format!("{number}-{caller}-{way}")];
            let (straight, through) = (of("straight"), of("through"));
            stricter += usize::from(through.arrived.len() < straight.arrived.len());
            let sound = through.arrived.len() <= case.most
                && (through.arrived.len() <= straight.arrived.len() || lenient(case.name))
                && through.arrived.iter().all(|(name, _)| name == user);
            let line = format!(
                "{} ({caller}, at most {})\n    straight {straight}\n    through  {through}",
                case.name, case.most
            );
            if sound {
                println!("{line}");
            } else {
                wrong.push(line);
            }
        }
    }
    println!(
        "{} cases, {} sent each way, {stricter} of them stricter through the proxy",
        corpus.len(),
        corpus.len() * callers.len()
    );
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    Ok(())
}
