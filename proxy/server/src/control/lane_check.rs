//! A call through the reserved lane now and then, the way an operator's would go: a connection to the listening socket, a
//! client certificate, the lane's own judgement, the apiserver's answer. So that nobody finds out in the worst hour that
//! the way in is closed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::clock;
use crate::lane_call::{self, Called, Pinned};
use crate::shared::Shared;

/// Longer than this an operator would not wait either.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first call waits until the lane is up.
const AT_FIRST: Duration = Duration::from_secs(1);

/// What the last call said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CheckView {
    /// Unix seconds of the last call.
    pub(crate) at: u64,
    /// Whether the lane let it in and answered.
    pub(crate) success: bool,
    /// What it said, or why it failed.
    pub(crate) what: String,
    pub(crate) took_ms: f64,
}

/// The state of the check.
#[derive(Debug, Default)]
pub(crate) struct LaneCheck(Mutex<Option<CheckView>>);

impl LaneCheck {
    /// `None` before the first call, or when nothing is checked.
    pub(crate) fn view(&self) -> Option<CheckView> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, view: Option<CheckView>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }
}

/// Calls through the lane that listens on one of `addresses` until `stop` turns true.
pub(crate) async fn run(
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    let Some(address) = addresses.first().copied() else {
        return;
    };
    let mut wait = AT_FIRST;
    let mut said = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let check = shared.snapshot.load().config.reserved.check.clone();
        wait = check.interval;
        let view = look(address, &shared).await;
        say(view.as_ref(), &mut said);
        shared.lane_check.set(view);
    }
}

/// `None` where there is nothing to call with.
async fn look(address: SocketAddr, shared: &Shared) -> Option<CheckView> {
    let snapshot = shared.snapshot.load_full();
    let reserved = &snapshot.config.reserved;
    if !reserved.check.enabled {
        return None;
    }
    let result = async {
        let server = Pinned::certificate(&snapshot.config.tls.certificate)?;
        let client = (&*reserved.check.certificate, &*reserved.check.key);
        let connector = lane_call::pinned(server, client)?;
        let name = &snapshot.config.upstream.server_name;
        lane_call::call(address, connector, name, PATIENCE).await
    };
    let before = clock::now();
    let result = result.await;
    let took = clock::now().saturating_since(before);
    let (success, what) = match result {
        Ok(Called { status, user, .. }) => match (status, user) {
            (200 | 201, user) => (true, format!("the apiserver answered {user}")),
            // The lane let the call in; that the server is away is another alarm's business.
            (503 | 504, _) => (true, "let in; the apiserver does not answer".to_owned()),
            (status, _) => (false, format!("it answered {status}")),
        },
        Err(problem) => (false, problem),
    };
    Some(CheckView {
        at: clock::unix_seconds(),
        success,
        what,
        took_ms: took.as_secs_f64() * 1e3,
    })
}

/// When it changes.
fn say(view: Option<&CheckView>, said: &mut Option<bool>) {
    let now = view.map(|view| view.success);
    if now != *said {
        match view {
            Some(CheckView {
                success: true,
                what,
                ..
            }) => {
                info!(what, "a call through the reserved lane works");
            }
            Some(CheckView { what, .. }) => warn!(
                problem = what,
                "a call through the reserved lane does NOT work; `spillway break-glass test` tells more"
            ),
            None => {}
        }
        *said = now;
    }
}
