//! The model as a program of its own.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::{Costs, Model, Options};

/// Runs the model apiserver until it is killed.
#[derive(Debug, clap::Args)]
pub struct Cli {
    /// Directory for the PKI and the kubeconfigs.
    #[arg(long)]
    pub dir: PathBuf,
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Simulated cores.
    #[arg(long, default_value_t = 1)]
    pub cores: usize,
    /// Simulated memory; the server is killed above it. Bytes, or with KiB,
    /// MiB, GiB.
    #[arg(long, default_value = "2GiB")]
    pub memory_limit: Size,
    /// How long it is down after running out of memory, in seconds.
    #[arg(long, default_value_t = 5.0)]
    pub down: f64,
    /// Makes everything this many times as dear.
    #[arg(long, default_value_t = 1.0)]
    pub cost_scale: f64,
    /// Objects to start with: RESOURCE=COUNT[xBYTES][@NAMESPACES], for
    /// example pods=10000x3000@20. Repeatable.
    #[arg(long)]
    pub objects: Vec<Objects>,
    /// Exit when standard input ends.
    #[arg(long)]
    pub exit_on_stdin_close: bool,
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let at = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(at);
        let shift = match unit {
            "" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => bail!("unknown unit {unit:?}: use KiB, MiB or GiB"),
        };
        let number: u64 = number
            .parse()
            .with_context(|| format!("{text:?} is no size"))?;
        let bytes = number
            .checked_mul(1 << shift)
            .context("the size is too large")?;
        Ok(Self(bytes))
    }
}

/// Objects to seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objects {
    /// Plural resource name.
    pub resource: String,
    /// How many.
    pub count: usize,
    /// Encoded size of each, in bytes.
    pub bytes: usize,
    /// Namespaces `ns-0`, `ns-1`, … to spread them over; 0 is `default`.
    pub namespaces: usize,
}

impl FromStr for Objects {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (resource, rest) = text
            .split_once('=')
            .with_context(|| format!("{text:?} is not RESOURCE=COUNT[xBYTES][@NAMESPACES]"))?;
        let (rest, namespaces) = rest.split_once('@').unwrap_or((rest, "0"));
        let (count, bytes) = rest.split_once('x').unwrap_or((rest, "1000"));
        let number = |text: &str| {
            text.parse()
                .with_context(|| format!("{text:?} is no number"))
        };
        Ok(Self {
            resource: resource.to_owned(),
            count: number(count)?,
            bytes: number(bytes)?,
            namespaces: number(namespaces)?,
        })
    }
}

/// Runs the model; returns when standard input ends, if asked to.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    ensure!(
        cli.cost_scale.is_finite() && cli.cost_scale > 0.0,
        "--cost-scale must be positive"
    );
    let options = Options {
        port: cli.port,
        cores: cli.cores,
        memory_limit: cli.memory_limit.0,
        down: Duration::try_from_secs_f64(cli.down).context("--down")?,
        costs: Costs::default().scaled(cli.cost_scale),
        ..Options::new(cli.dir)
    };
    let running = Model::start(options)?;
    for objects in &cli.objects {
        let names: Vec<String> = (0..objects.namespaces).map(|i| format!("ns-{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        running.seed(&objects.resource, &names, objects.count, objects.bytes)?;
    }
    let ready = serde_json::json!({
        "event": "ready",
        "server": running.server(),
        "dir": running.dir(),
    });
    let mut out = std::io::stdout();
    writeln!(out, "{ready}")?;
    out.flush()?;
    if cli.exit_on_stdin_close {
        let mut ignored = [0; 1024];
        while std::io::stdin().read(&mut ignored)? > 0 {}
    } else {
        loop {
            std::thread::park();
        }
    }
    running.stop();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_and_sizes_parse() {
        let pods: Objects = "pods=10000x3000@20".parse().unwrap();
        assert_eq!(
            (pods.count, pods.bytes, pods.namespaces),
            (10_000, 3000, 20)
        );
        let nodes: Objects = "nodes=5".parse().unwrap();
        assert_eq!((nodes.count, nodes.bytes, nodes.namespaces), (5, 1000, 0));
        assert!("pods".parse::<Objects>().is_err());
        assert_eq!("2GiB".parse::<Size>().unwrap(), Size(2 << 30));
        assert!("2GB".parse::<Size>().is_err());
        assert!("99999999999999GiB".parse::<Size>().is_err());
    }
}
