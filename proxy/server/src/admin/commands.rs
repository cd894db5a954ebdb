//! What the commands ask of the running process, and what they change in it.
//!
//! Every change is written to the log with who asked for it, before it is answered.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{policy, status, tenants};
use crate::clock;
use crate::explain::{self, Question};
use crate::learned::Learned;
use crate::measures::{Done, NewMeasure};
use crate::overrides::{self, ModeChange, ModeName};
use crate::sessions::{self, Holder};
use crate::shared::Shared;
use crate::snapshot::Snapshot;

/// The longest a run-time change may be asked to last, in seconds.
const LONGEST: u64 = 30 * 24 * 3600;

/// Who asks: the process at the other end of the socket, as the system knows it, or whoever got a ticket for the console.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) uid: u32,
    pub(super) pid: Option<i32>,
    /// The console's user, as they called themselves when they asked for the ticket.
    pub(super) console: Option<String>,
}

impl Caller {
    pub(super) fn name(&self) -> String {
        let name = match self.pid {
            Some(pid) => format!("uid {} (pid {pid})", self.uid),
            None => format!("uid {}", self.uid),
        };
        match &self.console {
            Some(user) => format!("{user}, {name}, by the console"),
            None => name,
        }
    }

    /// As the author of a measure. The console's user is known already, whatever the page says.
    fn author(&self, says: &str) -> String {
        let name = self.name();
        // Who has no name is known by the number already.
        match self.console {
            None if says != format!("uid {}", self.uid) => format!("{says}, {name}"),
            _ => name,
        }
    }
}

/// Why a command was not done.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) error: String,
    /// What to do next.
    pub(super) next: Option<String>,
}

impl Problem {
    pub(super) fn request(error: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            error: error.into(),
            next: None,
        }
    }

    pub(super) fn or_try(self, next: impl Into<String>) -> Self {
        Self {
            next: Some(next.into()),
            ..self
        }
    }

    pub(super) fn forbidden(error: impl Into<String>) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            ..Self::request(error)
        }
    }

    /// Of the console, without a ticket or a session.
    pub(super) fn locked() -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            ..Self::request("the switches are locked")
        }
        .or_try("unlock them with the link that `spillway console` prints on this node")
    }

    pub(super) fn not_found(error: impl Into<String>) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            ..Self::request(error)
        }
    }
}

/// A page of the present state.
pub(super) fn get(shared: &Shared, path: &str, query: &str) -> Result<Value, Problem> {
    let json = |value: Result<Value, serde_json::Error>| {
        value.map_err(|problem| Problem::request(problem.to_string()))
    };
    match path {
        "/status" => json(serde_json::to_value(status::status(shared))),
        "/tenants" => Ok(tenants::page(shared)),
        "/mode" => Ok(mode_page(shared)),
        "/learned" => json(serde_json::to_value(Learned::of(&shared.costs))),
        "/quarantine" => json(serde_json::to_value(shared.measures.list())),
        "/config" => {
            let snapshot = shared.snapshot.load();
            json(serde_json::to_value(&snapshot.config))
        }
        "/revoked" => {
            let snapshot = shared.snapshot.load();
            Ok(json!({
                "file": snapshot.config.reserved.revoked,
                "authority": snapshot.config.reserved.client_ca,
                "serials": snapshot.revoked.serials(),
            }))
        }
        "/recent" => {
            let id = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("audit_id="))
                .unwrap_or_default();
            match shared.recent.find(id) {
                Some(record) => json(serde_json::to_value(explain::past(record))),
                None => Err(Problem::not_found(format!(
                    "no request with audit id `{id}` among the last few thousand of this process"
                ))
                .or_try(
                    "ask the Spillway of the node that served it, or explain the request itself: \
                     spillway explain METHOD URL --user USER",
                )),
            }
        }
        policies if policies.starts_with("/policy") => policy::get(shared, policies),
        _ => Err(Problem::not_found(
            "pages: /status /tenants /mode /learned /quarantine /policy /config /revoked /recent?audit_id=ID",
        )),
    }
}

/// Does what is asked.
pub(super) fn post(
    shared: &Shared,
    caller: &Caller,
    path: &str,
    body: &[u8],
) -> Result<Value, Problem> {
    match path {
        "/explain" => {
            let question: Question = parse(body)?;
            let explained = explain::live(&question, shared, clock::now())
                .map_err(|problem| Problem::request(problem.to_string()))?;
            serde_json::to_value(explained).map_err(|problem| Problem::request(problem.to_string()))
        }
        "/mode" => change_mode(shared, caller, parse(body)?),
        "/quarantine" => quarantine(shared, caller, parse(body)?),
        "/quarantine/remove" => release(shared, caller, &parse(body)?),
        "/policy" => policy::post(shared, caller, body),
        "/console" => issue(shared, caller, parse(body)?),
        "/console/end" => Ok(end_sessions(shared, caller)),
        _ => Err(Problem::not_found(
            "commands: /explain /mode /quarantine /quarantine/remove /policy /console /console/end",
        )),
    }
}

pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|problem| {
        Problem::request(format!("the command was not understood: {problem}"))
            .or_try("use the spillway binary of the version that runs here (`spillway --version`)")
    })
}

/// Takes a measure. Whoever says so is named as they call themselves and as the kernel knows them.
fn quarantine(shared: &Shared, caller: &Caller, mut new: NewMeasure) -> Result<Value, Problem> {
    if let Some(class) = &new.target.class {
        known_class(&shared.snapshot.load(), class)?;
    }
    new.author = caller.author(&new.author);
    let done = shared.measures.add(new, clock::unix_seconds());
    done.map(|done| measure_page(&done))
        .map_err(|problem| Problem::request(problem.to_string()))
}

/// A measure to be ended.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    id: u64,
    author: String,
}

fn release(shared: &Shared, caller: &Caller, wish: &Release) -> Result<Value, Problem> {
    let by = caller.author(&wish.author);
    let done = shared.measures.remove(wish.id, &by).ok_or_else(|| {
        Problem::not_found(format!("no measure {} is in force", wish.id))
            .or_try("see what is: spillway quarantine list")
    })?;
    Ok(measure_page(&done))
}

fn measure_page(done: &Done) -> Value {
    let kept = match &done.kept {
        Ok(kept) => json!(kept),
        Err(problem) => json!(problem.to_string()),
    };
    json!({ "measure": done.measure, "kept": kept })
}

/// A wish for a ticket to the console's switches.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketWish {
    author: String,
    /// How long the switches shall work, in seconds.
    seconds: u64,
}

/// Issues a ticket to whoever could ask over the socket.
fn issue(shared: &Shared, caller: &Caller, wish: TicketWish) -> Result<Value, Problem> {
    let author = wish.author.trim();
    let sound = !author.is_empty() && author.chars().count() <= 80;
    if !sound || author.chars().any(char::is_control) {
        return Err(Problem::request(
            "who asks: 1 to 80 characters on one line are needed",
        ));
    }
    let lasts = Duration::from_secs(wish.seconds);
    if !(Duration::from_secs(60)..=sessions::LONGEST).contains(&lasts) {
        return Err(Problem::request("the switches work for 1m to 8h"));
    }
    let Some(address) = shared.admin_address.get() else {
        return Err(Problem::request("the console is not served yet").or_try("try again"));
    };
    let holder = Holder {
        name: author.to_owned(),
        uid: caller.uid,
        pid: caller.pid,
    };
    let ticket = shared.sessions.issue(holder, lasts, clock::now());
    let ticket = ticket.map_err(|problem| Problem::request(problem.to_string()))?;
    info!(target: "spillway::audit", event = "console_ticket_issued", by = %caller.author(author), seconds = wish.seconds,
          "a ticket to the console's switches was issued");
    Ok(json!({
        "url": format!("http://{address}/console#ticket={ticket}"),
        "address": address,
        "ticket_seconds": sessions::TICKET.as_secs(),
        "seconds": wish.seconds,
    }))
}

fn end_sessions(shared: &Shared, caller: &Caller) -> Value {
    let ended = shared.sessions.end_all(clock::now());
    info!(target: "spillway::audit", event = "console_ended", by = %caller.name(), ended, "all tickets and sessions of the console were ended");
    json!({ "ended": ended })
}

/// # Errors
/// With the classes there are.
fn known_class(snapshot: &Snapshot, class: &str) -> Result<(), Problem> {
    let classes = snapshot.policy.classes();
    if classes.iter().any(|known| *known.name == *class) {
        return Ok(());
    }
    let known: Vec<&str> = classes.iter().map(|class| &*class.name).collect();
    Err(Problem::request(format!("there is no class `{class}`"))
        .or_try(format!("name one of {}", known.join(", "))))
}

/// A change of the mode; without one, those in force are taken back.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModeWish {
    class: Option<String>,
    mode: Option<ModeName>,
    percent: Option<f32>,
    /// Seconds from now.
    lasts: Option<u64>,
    reason: Option<String>,
}

fn change_mode(shared: &Shared, caller: &Caller, wish: ModeWish) -> Result<Value, Problem> {
    let snapshot = shared.snapshot.load();
    if let Some(class) = &wish.class {
        known_class(&snapshot, class)?;
    }
    if wish
        .percent
        .is_some_and(|percent| !(0.0..=100.0).contains(&percent))
    {
        return Err(Problem::request("a percentage is between 0 and 100"));
    }
    if wish
        .lasts
        .is_some_and(|lasts| !(1..=LONGEST).contains(&lasts))
    {
        return Err(Problem::request("a change lasts between 1s and 30 days")
            .or_try("for longer, write it into the configuration: admission.mode"));
    }
    let now = clock::unix_seconds();
    let by = caller.name();
    let class = wish.class.as_deref().unwrap_or("all");
    let Some(mode) = wish.mode else {
        let taken =
            shared.change_mode(|changes| overrides::take_back(changes, wish.class.as_deref()));
        info!(target: "spillway::audit", event = "mode_taken_back", %by, class, taken, "run-time mode changes taken back");
        return Ok(kept_mode_page(shared));
    };
    let change = ModeChange {
        class: wish.class.clone(),
        mode,
        percent: wish.percent,
        until: wish.lasts.map(|lasts| now + lasts),
        since: now,
        by: by.clone(),
        reason: wish.reason.clone(),
    };
    warn!(target: "spillway::audit", event = "mode_changed", %by, class, mode = mode.as_str(), percent = wish.percent,
          until = change.until, reason = wish.reason, "mode changed at run time");
    shared.change_mode(|changes| overrides::set(changes, change));
    Ok(kept_mode_page(shared))
}

/// After a change: with what came of keeping it.
fn kept_mode_page(shared: &Shared) -> Value {
    let kept = match shared.overrides.save() {
        Ok(kept) => json!(kept),
        Err(problem) => json!(problem.to_string()),
    };
    let mut page = mode_page(shared);
    if let Some(page) = page.as_object_mut() {
        page.insert("kept".to_owned(), kept);
    }
    page
}

pub(super) fn mode_page(shared: &Shared) -> Value {
    let snapshot = shared.snapshot.load();
    let view = shared.engine.view(clock::now());
    let named = snapshot.classes.iter().zip(&view.classes);
    let classes: Vec<Value> = named
        .map(|(class, seen)| {
            json!({
                "class": &*class.name,
                "mode": ModeName::from(seen.mode).as_str(),
                "percent": seen.enforced_tenants * 100.0,
            })
        })
        .collect();
    json!({
        "configured": ModeName::from(snapshot.settings.mode).as_str(),
        "configured_percent": snapshot.settings.enforced_tenants * 100.0,
        "classes": classes,
        "changes": shared.overrides.all(),
    })
}
