//! A trivial call over the connections that requests share: what it takes longer than one over a connection of its own is
//! the connection's doing, or this worker's.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderValue, USER_AGENT};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt as _, Limited};
use proxy_core::identity::Identity;

use super::body::RequestBody;
use super::{Outbound, Upstream};
use crate::attribute::Traffic;
use crate::clock;
use crate::identify::Credential;
use crate::snapshot::Snapshot;

/// The user name such calls show in the apiserver's audit log; the same as the probe's.
const USER: &str = "system:spillway-probe";

/// An answer longer than this, in bytes, is none to a ping.
const LONGEST: usize = 64 * 1024;

impl Upstream {
    /// How long a ping takes on a connection of small requests; `None` while there is none, and on any failure.
    pub(crate) async fn ping(&self, snapshot: Arc<Snapshot>) -> Option<Duration> {
        let (connections, _) = self.0.asserted.first()?.count();
        if connections == 0 {
            return None;
        }
        let mut request = Request::new(());
        *request.method_mut() = Method::GET;
        let path = snapshot.config.admission.probe.path.parse();
        *request.uri_mut() = path.unwrap_or_else(|_| Uri::from_static("/livez/ping"));
        let identity =
            Identity::certificate(USER, vec!["system:authenticated".into()], None, Vec::new());
        let headers = request.headers_mut();
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("spillway-probe/", env!("CARGO_PKG_VERSION"))),
        );
        headers.extend(snapshot.identity_headers.assertion(&identity)?);
        let outbound = Outbound {
            head: request.into_parts().0,
            body: RequestBody::Empty,
            credential: Credential::Asserted,
            traffic: Traffic::Short,
            snapshot,
        };
        let sent = clock::now();
        let inbound = self.clone().send(outbound).await.ok()?;
        let took = clock::now().saturating_since(sent);
        let body = Limited::new(inbound.response.into_body(), LONGEST);
        let _ = body.collect().await;
        inbound.way.finish();
        Some(took)
    }
}
