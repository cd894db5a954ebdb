//! `spillway explain`: what would become of a request, or what became of one.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::admin_client::Failed;
use super::output::{bytes, moment, print};
use super::{Command, Reach};
use crate::control::reload;
use crate::explain::{self, Explanation, Past, Question, time};
use crate::snapshot;

const EXAMPLES: &str = "Examples:
  spillway explain GET '/api/v1/pods?limit=500' --user system:serviceaccount:mon:agent
  spillway explain PUT /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1 \\
      --user system:node:n1 --group system:nodes
  spillway explain 8a1c9ad4-3c0b-4c53-9d6f-3a3bb0d8a0f5     by the Audit-Id header of an answer
  spillway explain GET /api/v1/pods --user jane --config new.yaml     by a file, nothing running

Works while the apiserver is down. Nothing is sent and nothing is counted.";

/// Say which class and rule a request meets, what it costs and what would happen to it now, and why; or what happened to
/// one that is over, by its audit id.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExplainArgs {
    /// A method, followed by a URL; or an audit id alone.
    #[arg(value_name = "METHOD|AUDIT-ID")]
    method: String,
    /// Path and query, as `kubectl -v=8` shows it.
    url: Option<String>,
    /// From whom; without it, from an anonymous client.
    #[arg(long, default_value = "")]
    user: String,
    /// A group of the user's; may be given several times.
    #[arg(long = "group")]
    groups: Vec<String>,
    /// The User-Agent header.
    #[arg(long)]
    user_agent: Option<String>,
    /// The Accept header: it tells tables and metadata from whole objects.
    #[arg(long)]
    accept: Option<String>,
    /// The client's address.
    #[arg(long)]
    address: Option<IpAddr>,
    /// Judge by this configuration and by first estimates, without a running process.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
}

impl Command for ExplainArgs {
    fn run(self) -> Result<(), Failed> {
        let Some(url) = &self.url else {
            return self.past();
        };
        let question = Question {
            method: self.method.clone(),
            url: url.clone(),
            user: self.user.clone(),
            groups: self.groups.clone(),
            user_agent: self.user_agent.clone(),
            accept: self.accept.clone(),
            address: self.address,
        };
        let refused = |error: String| Failed::Refused { error, next: None };
        let explained = match &self.config {
            None => self.reach.client().post("/explain", &question)?,
            Some(file) => {
                let config = reload::read(file).map_err(refused)?;
                let policy = snapshot::policy(&config).map_err(|p| refused(p.to_string()))?;
                explain::offline(&question, &policy).map_err(|p| refused(p.to_string()))?
            }
        };
        print(self.reach.output, &explained, text);
        Ok(())
    }
}

impl ExplainArgs {
    fn past(&self) -> Result<(), Failed> {
        let sound = |letter: char| letter.is_ascii_graphic() && !"&#?%+".contains(letter);
        if http::Method::from_bytes(self.method.as_bytes()).is_ok_and(|method| {
            method
                .as_str()
                .bytes()
                .all(|byte| byte.is_ascii_uppercase())
        }) || !self.method.chars().all(sound)
        {
            return Err(Failed::Refused {
                error: format!(
                    "`{}` alone is neither a request nor an audit id",
                    self.method
                ),
                next: Some(
                    "give METHOD and URL, or the Audit-Id of an answer: spillway explain --help"
                        .into(),
                ),
            });
        }
        let past: Past = self
            .reach
            .client()
            .get(&format!("/recent?audit_id={}", self.method))?;
        print(self.reach.output, &past, past_text);
        Ok(())
    }
}

/// For people; also what `top` shows.
pub(super) fn text(of: &Explanation) -> String {
    let mut text = format!(
        "request:  {}\ntenant:   {}\nclass:    {} (importance {}, 0 is the most important)\nrule:     {}\n\
         cost:     {} of server time, {} ({} work)\n",
        of.shape,
        of.tenant,
        of.class,
        of.importance,
        of.rule,
        time(of.cost),
        bytes(of.bytes),
        of.kind,
    );
    if let Some(beside) = &of.beside {
        text += &format!(
            "beside:   the {} policy says {}, by rule {}\n",
            beside.policy, beside.class, beside.rule
        );
    }
    if let Some(now) = &of.now {
        let reason = now
            .reason
            .as_ref()
            .map_or_else(String::new, |reason| format!(" ({reason})"));
        text += &format!(
            "now:      {}{reason}, mode {}\nwhy:      {}\nclass:    {} running, {} waiting; {} of {} in use\n",
            now.verdict,
            now.mode.as_str(),
            now.because,
            now.running,
            now.waiting,
            time(now.outstanding),
            time(now.ceiling),
        );
    }
    text
}

fn past_text(past: &Past) -> String {
    let record = &past.record;
    format!(
        "request:  {} {} ({})\nuser:     {}\nagent:    {}\nlane:     {}\nclass:    {}\nrule:     {}\n\
         cost:     {} of server time, as estimated then\nended:    {}, after {} and {}\nwhy:      {}\n",
        record.method,
        record.path,
        record.verb,
        record.user,
        record.user_agent,
        record.lane,
        record.class,
        record.rule,
        time(record.cost),
        moment(record.ended),
        time(record.took),
        bytes(record.bytes),
        past.because,
    )
}
