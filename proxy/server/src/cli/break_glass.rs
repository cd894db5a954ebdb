//! `spillway break-glass`: short-lived access to the reserved lane for a named person, issued offline.
//!
//! Nothing here needs the API or a running proxy. An authority of its own (never the cluster's) signs certificates of a day
//! at most; a journal beside it says who got one and why; a list of revoked serial numbers is read by the proxy.

mod authority;
mod journal;
mod kubeconfig;
mod prove;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use config::Config;

use super::admin_client::{AdminClient, Failed};
use super::output::{Format, Table, moment, print, span};
use super::{Command, Reach};
use crate::clock;
use crate::control::reload;
use crate::identify::revoked;
use authority::Authority;
use journal::{Issued, Journal, State};
use kubeconfig::Kubeconfig;

/// The group that the certificates of this authority carry beside the asked for, so that an audit log tells them apart.
const MARK: &str = "spillway:break-glass";
/// The longest a certificate may last.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
const SHORTEST: Duration = Duration::from_secs(60);
/// What `test` issues for itself.
const FOR_A_TEST: Duration = Duration::from_secs(5 * 60);
/// How long a running proxy may take to read the list of revoked ones.
const NOTICED: Duration = Duration::from_secs(15);

const EXAMPLES: &str = "Examples:
  spillway break-glass init                                   once: an authority of its own
      then, in the configuration:  reserved: { client_ca: /etc/spillway/break-glass/ca.crt }
  spillway break-glass issue --name jane --reason INC-4711 --out jane.conf
  kubectl --kubeconfig jane.conf get pods -A
  spillway break-glass list
  spillway break-glass revoke jane
  spillway break-glass test                                   prove now that the lane works

Works while the apiserver is down, and `issue` also while spillway is. The key of the
authority opens the reserved lane: keep the folder root's alone, or off the node altogether.";

/// Issue, list, revoke and test short-lived access to the reserved lane, offline.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BreakGlassArgs {
    #[command(subcommand)]
    command: Wanted,
}

#[derive(Debug, Args)]
struct Folder {
    /// Where the authority, its journal and the list of revoked certificates are.
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "/etc/spillway/break-glass"
    )]
    dir: PathBuf,
}

/// Where the lane is. What is not said is taken from the configuration.
#[derive(Debug, Args)]
struct Target {
    /// The reserved lane, as https://192.0.2.10:7443; default: the first address of `listen.reserved`.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// PEM bundle that the lane's serving certificate chains to; default: `upstream.ca`.
    #[arg(long, value_name = "FILE")]
    server_ca: Option<PathBuf>,
    /// A name in that certificate; default: `upstream.server_name`.
    #[arg(long, value_name = "NAME")]
    tls_server_name: Option<String>,
    /// The configuration these are taken from.
    #[arg(long, value_name = "FILE", default_value = "/etc/spillway/config.yaml")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Wanted {
    /// Create the authority. Once; never overwrites one.
    Init {
        #[command(flatten)]
        folder: Folder,
    },
    /// Issue a kubeconfig for the reserved lane.
    Issue {
        /// The person, as they shall appear in the audit log.
        #[arg(long)]
        name: String,
        /// Why, for the journal: an incident's number.
        #[arg(long)]
        reason: String,
        /// How long it lasts, 1m to 24h.
        #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = super::duration)]
        lasts: Duration,
        /// The group the person is asserted in, beside `spillway:break-glass`. RBAC decides what it may do.
        #[arg(long, default_value = "system:masters")]
        group: String,
        /// Where the kubeconfig is written, mode 0600; `-` is standard output. Never overwrites a file.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        folder: Folder,
    },
    /// List what was issued.
    List {
        /// Also what has ended.
        #[arg(long)]
        all: bool,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
        #[command(flatten)]
        folder: Folder,
    },
    /// Refuse what was issued from now on.
    Revoke {
        /// A serial number, or a person's name: then everything of theirs.
        #[arg(value_name = "SERIAL|NAME")]
        whom: String,
        /// Why, for the list.
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        folder: Folder,
        #[command(flatten)]
        reach: Reach,
    },
    /// Make a call through the reserved lane as an operator would, and say what came of it.
    Test {
        /// With this kubeconfig; default: with a certificate issued for the test, of five minutes.
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        folder: Folder,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

/// A failure of ours with what to do next.
fn failed(error: impl Into<String>, next: impl Into<String>) -> Failed {
    Failed::Refused {
        error: error.into(),
        next: Some(next.into()),
    }
}

impl Command for BreakGlassArgs {
    fn run(self) -> Result<(), Failed> {
        match self.command {
            Wanted::Init { folder } => init(&folder.dir),
            Wanted::Issue {
                name,
                reason,
                lasts,
                group,
                out,
                target,
                folder,
            } => {
                let wish = Wish {
                    name,
                    reason,
                    lasts,
                    group: Some(group),
                };
                issue(&folder.dir, &wish, &target, &out)
            }
            Wanted::List {
                all,
                output,
                folder,
            } => list(&folder.dir, all, output),
            Wanted::Revoke {
                whom,
                reason,
                folder,
                reach,
            } => revoke(&folder.dir, &whom, reason.as_deref(), &reach.client()),
            Wanted::Test {
                kubeconfig,
                target,
                folder,
                output,
            } => prove(&folder.dir, kubeconfig.as_deref(), &target, output),
        }
    }
}

fn init(dir: &Path) -> Result<(), Failed> {
    let dir = &std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    Authority::create(dir)?;
    eprintln!(
        "created {0}/ca.crt and {0}/ca.key (mode 0600)\n\
         next: say so in the configuration of every spillway, which reads it by itself:\n\
         \x20 reserved:\n    client_ca: {0}/ca.crt\n    revoked: {0}/revoked\n\
         the key may leave this machine; only `issue` and `test` need it",
        dir.display()
    );
    Ok(())
}

/// Who shall get what.
struct Wish {
    name: String,
    reason: String,
    lasts: Duration,
    group: Option<String>,
}

impl Wish {
    fn check(&self) -> Result<(), Failed> {
        let printable = |text: &str| !text.trim().is_empty() && !text.chars().any(char::is_control);
        if !printable(&self.name) || self.name.len() > 64 {
            return Err(failed(
                "the name must be 1 to 64 printable letters",
                "name the person: --name jane",
            ));
        }
        if self.name.starts_with("system:") {
            return Err(failed(
                format!(
                    "`{}`: names that begin with `system:` are Kubernetes' own",
                    self.name
                ),
                "name the person: --name jane; what they may do is said with --group",
            ));
        }
        if !printable(&self.reason) {
            return Err(failed("a reason is needed", "say why: --reason INC-4711"));
        }
        if let Some(group) = &self.group
            && (!printable(group) || group.len() > 64)
        {
            return Err(failed(
                format!("`{group}` is no group"),
                "give 1 to 64 printable letters: --group system:masters",
            ));
        }
        if !(SHORTEST..=LONGEST).contains(&self.lasts) {
            return Err(failed(
                "access lasts between 1m and 24h",
                "issue it again when it has ended",
            ));
        }
        Ok(())
    }
}

/// Issues and writes it into the journal; the kubeconfig is only made when that is done.
fn credential(dir: &Path, wish: &Wish, target: &Target) -> Result<(Kubeconfig, Issued), Failed> {
    wish.check()?;
    let (server, server_name, server_ca) = target.resolve()?;
    let authority = Authority::open(dir)?;
    let signed = authority.issue(&wish.name, wish.group.as_deref(), MARK, wish.lasts)?;
    let groups = wish.group.iter().cloned().chain([MARK.to_owned()]);
    let now = clock::unix_seconds();
    let issued = Issued {
        serial: signed.serial.clone(),
        name: wish.name.clone(),
        groups: groups.collect(),
        reason: wish.reason.clone(),
        issued: now,
        ends: now + wish.lasts.as_secs(),
        by: journal::operator(),
        server: server.clone(),
    };
    Journal::of(dir).add(&issued)?;
    let kubeconfig = Kubeconfig {
        server,
        server_name,
        server_ca,
        certificate: signed.certificate,
        key: signed.key,
        user: wish.name.clone(),
    };
    Ok((kubeconfig, issued))
}

fn issue(dir: &Path, wish: &Wish, target: &Target, out: &Path) -> Result<(), Failed> {
    if out != Path::new("-") && out.exists() {
        return Err(failed(
            format!("{} exists", out.display()),
            "name another file, or remove it",
        ));
    }
    let (kubeconfig, issued) = credential(dir, wish, target)?;
    kubeconfig.write(out)?;
    eprintln!(
        "issued to {} for {}, until {}\n  serial {}, groups {}\n  written to {} and noted in {}\n\
         use it:    kubectl --kubeconfig {} get nodes\nend it:    spillway break-glass revoke {}",
        issued.name,
        span(wish.lasts.as_secs()),
        moment(issued.ends),
        issued.serial,
        issued.groups.join(", "),
        out.display(),
        Journal::of(dir).path().display(),
        out.display(),
        issued.serial,
    );
    Ok(())
}

fn list(dir: &Path, all: bool, output: Format) -> Result<(), Failed> {
    let now = clock::unix_seconds();
    let mut listed = Journal::of(dir).listed(now)?;
    listed.retain(|entry| all || entry.state != State::Ended);
    print(output, &listed, |listed| {
        let mut table = Table::new(&["SERIAL", "NAME", "STATE", "ENDS", "BY", "REASON"]);
        for entry in listed {
            let left = match entry.state {
                State::Valid => format!("in {}", span(entry.issued.ends.saturating_sub(now))),
                _ => moment(entry.issued.ends),
            };
            table.row([
                entry.issued.serial.clone(),
                entry.issued.name.clone(),
                entry.state.to_string(),
                left,
                entry.issued.by.clone(),
                entry.issued.reason.clone(),
            ]);
        }
        if table.is_empty() {
            "nothing is in force (what has ended: --all)\n".to_owned()
        } else {
            table.to_string()
        }
    });
    Ok(())
}

fn revoke(
    dir: &Path,
    whom: &str,
    reason: Option<&str>,
    client: &AdminClient,
) -> Result<(), Failed> {
    let journal = Journal::of(dir);
    let now = clock::unix_seconds();
    let serial = revoked::normal(whom);
    let known = journal.listed(now)?;
    let mut serials: Vec<String> = known
        .iter()
        .filter(|entry| entry.state == State::Valid)
        .filter(|entry| {
            entry.issued.name == whom || Some(&*entry.issued.serial) == serial.as_deref()
        })
        .map(|entry| entry.issued.serial.clone())
        .collect();
    if serials.is_empty() {
        // A certificate of another machine's journal can be revoked by its number.
        match serial.filter(|serial| serial.len() >= 16) {
            Some(serial) => serials.push(serial.into()),
            None => {
                return Err(failed(
                    format!("nothing in force was issued to `{whom}`, and it is no serial number"),
                    "see what is: spillway break-glass list",
                ));
            }
        }
    }
    let file = journal.revoke(&serials, reason, now)?;
    eprintln!("revoked {} in {}", serials.join(", "), file.display());
    match noticed(client, &serials) {
        Ok(()) => eprintln!("the spillway running here refuses it from now on"),
        Err(problem) => eprintln!(
            "NOT confirmed by a spillway running here: {problem}\n  \
             it takes effect where a spillway's reserved.revoked names this file"
        ),
    }
    eprintln!("on other control-plane nodes: copy the file there; it is read within seconds");
    Ok(())
}

/// Waits until the running process has read the list.
fn noticed(client: &AdminClient, serials: &[String]) -> Result<(), String> {
    let until = Instant::now() + NOTICED;
    loop {
        let page: serde_json::Value = client
            .get("/revoked")
            .map_err(|problem| problem.to_string())?;
        let list = page.get("serials").and_then(serde_json::Value::as_array);
        let has = |serial: &String| {
            list.is_some_and(|list| list.iter().any(|listed| listed.as_str() == Some(serial)))
        };
        if serials.iter().all(has) {
            return Ok(());
        }
        if Instant::now() >= until {
            let file = page.get("file").and_then(serde_json::Value::as_str);
            let file = file.unwrap_or("no file at all");
            return Err(format!(
                "it reads {file}, and does not have the number after {NOTICED:?}"
            ));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn prove(dir: &Path, file: Option<&Path>, target: &Target, output: Format) -> Result<(), Failed> {
    let kubeconfig = match file {
        Some(file) => Kubeconfig::read(file)?,
        None => {
            let wish = Wish {
                name: "spillway-break-glass-test".to_owned(),
                reason: "break-glass test".to_owned(),
                lasts: FOR_A_TEST,
                // Proves the way in, and may do nothing there.
                group: None,
            };
            credential(dir, &wish, target)?.0
        }
    };
    let proof = prove::call(&kubeconfig)?;
    print(output, &proof, prove::Proof::text);
    proof.verdict()
}

impl Target {
    /// Server URL, TLS server name and PEM of the authority, from the command line or the configuration.
    fn resolve(&self) -> Result<(String, String, String), Failed> {
        let needed = self.server.is_none() || self.server_ca.is_none();
        let config: Option<Config> = match reload::read(&self.config) {
            Ok(config) => Some(config),
            Err(_) if !needed => None,
            Err(problem) => {
                return Err(failed(
                    problem,
                    "name the configuration with --config, or say everything: --server URL --server-ca FILE",
                ));
            }
        };
        let lane = config
            .as_ref()
            .and_then(|config| config.listen.reserved.first());
        let server = match (&self.server, lane) {
            (Some(server), _) => server.clone(),
            (None, Some(lane)) => format!("https://{lane}"),
            (None, None) => {
                return Err(failed(
                    "the configuration has no reserved lane",
                    "give it one (listen.reserved), or name the lane's address: --server URL",
                ));
            }
        };
        let server_name = self.tls_server_name.clone().or_else(|| {
            config
                .as_ref()
                .map(|config| config.upstream.server_name.clone())
        });
        let ca = self
            .server_ca
            .clone()
            .or_else(|| config.map(|config| config.upstream.ca))
            .unwrap_or_default();
        let pem = std::fs::read_to_string(&ca).map_err(|problem| {
            failed(
                format!("{}: cannot be read: {problem}", ca.display()),
                "name the CA of the lane's serving certificate: --server-ca FILE",
            )
        })?;
        let server_name = server_name.unwrap_or_else(|| "kubernetes".to_owned());
        Ok((server, server_name, pem))
    }
}
