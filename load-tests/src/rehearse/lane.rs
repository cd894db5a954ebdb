//! An operator on the reserved lane (straight: on the only one), twice a second.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::control_plane::ApiClient;
use crate::demo::cast::SHOP;
use crate::generate::{Call, Client, Patience, Schedule, perform};
use crate::record::{Current, Population};

/// Whom it counts.
pub(super) static POPULATIONS: &[Population] = &[Population {
    name: "operator",
    class: "reserved",
}];

const PER_SECOND: f64 = 2.0;
const PATIENCE: Patience = Patience {
    timeout: Duration::from_secs(10),
};

/// Asks until aborted, each time on a connection of its own, as kubectl does.
pub(super) fn ask(api: &ApiClient, current: &Current) -> JoinHandle<()> {
    let (api, current) = (api.clone(), current.clone());
    tokio::spawn(async move {
        let client = Client {
            api,
            agent: "kubectl/v1.36.0",
        };
        let call = Call::get(format!("/api/v1/namespaces/{SHOP}/configmaps/orders-0"));
        let mut schedule = Schedule::even(Instant::now(), PER_SECOND);
        loop {
            let due = schedule.next_arrival().intended;
            tokio::time::sleep_until(due).await;
            client.api.disconnect().await;
            perform(&client, &call, PATIENCE, &current.get(), 0, due).await;
        }
    })
}
