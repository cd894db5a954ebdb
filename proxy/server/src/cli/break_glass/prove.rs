//! A call through the reserved lane with a kubeconfig, and what it proves.

use std::net::ToSocketAddrs as _;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::super::admin_client::Failed;
use super::failed;
use super::kubeconfig::Kubeconfig;
use crate::lane_call;

/// An operator's patience.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Proof {
    server: String,
    user: String,
    /// Whether the lane let the caller in.
    let_in: bool,
    /// Whether the apiserver answered behind it.
    apiserver: bool,
    status: u16,
    /// Whom the apiserver takes the caller for.
    taken_for: String,
    message: String,
    took_ms: f64,
}

/// Calls.
///
/// # Errors
/// When there is no lane, or it is another one.
pub(super) fn call(kubeconfig: &Kubeconfig) -> Result<Proof, Failed> {
    let unreachable = |problem: String| {
        failed(
            format!("the reserved lane does NOT work: {problem}"),
            "is spillway running there (systemctl status spillway), and its reserved lane on that address (listen.reserved)?",
        )
    };
    let host = kubeconfig
        .server
        .trim_start_matches("https://")
        .trim_end_matches('/');
    let address = host
        .to_socket_addrs()
        .map_err(|problem| unreachable(format!("{host}: {problem}")))?
        .next()
        .ok_or_else(|| unreachable(format!("{host} has no address")))?;
    let client = lane_call::trusting(
        kubeconfig.server_ca.as_bytes(),
        kubeconfig.certificate.as_bytes(),
        kubeconfig.key.as_bytes(),
    )
    .map_err(unreachable)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|problem| unreachable(problem.to_string()))?;
    let before = Instant::now();
    let calling = lane_call::call(address, client, &kubeconfig.server_name, PATIENCE);
    let called = tokio::task::LocalSet::new()
        .block_on(&runtime, calling)
        .map_err(unreachable)?;
    Ok(Proof {
        server: kubeconfig.server.clone(),
        user: kubeconfig.user.clone(),
        let_in: !matches!(called.status, 401 | 403),
        apiserver: matches!(called.status, 200 | 201),
        status: called.status,
        taken_for: called.user,
        message: called.message,
        took_ms: before.elapsed().as_secs_f64() * 1e3,
    })
}

impl Proof {
    pub(super) fn text(&self) -> String {
        let what = match (self.let_in, self.apiserver) {
            (true, true) => format!(
                "works: let in as {}, and the apiserver takes it for {}",
                self.user, self.taken_for
            ),
            (true, false) => format!(
                "works: let in as {}; the apiserver behind it answered {} ({})",
                self.user, self.status, self.message
            ),
            (false, _) => format!(
                "REFUSED {} with {} ({})",
                self.user, self.status, self.message
            ),
        };
        format!(
            "reserved lane {} {what}, in {:.0}ms\n",
            self.server, self.took_ms
        )
    }

    /// # Errors
    /// When the lane did not let the caller in.
    pub(super) fn verdict(&self) -> Result<(), Failed> {
        if self.let_in {
            return Ok(());
        }
        Err(failed(
            format!(
                "the reserved lane refuses this credential with {}",
                self.status
            ),
            "has it ended or been revoked (spillway break-glass list --all)? \
             does reserved.client_ca of the running spillway name this authority (spillway config show)?",
        ))
    }
}
