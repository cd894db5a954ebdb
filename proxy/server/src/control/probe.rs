//! The sensor: a trivial call, again and again, whose delay above its own baseline is the server's queue seen from outside.
//!
//! On connections of its own, over HTTP/1.1 so that the server's measures against anonymous HTTP/2 clients never touch
//! it. It asserts a name of its own with the front-proxy certificate: `/livez/ping` is open to every authenticated
//! identity, and works where anonymous access is switched off.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use http::header::{HOST, HeaderValue, USER_AGENT};
use http::{Method, Request, Uri};
use http_body_util::BodyExt as _;
use proxy_core::admission::probe::{Failure, ProbeSettings, Tracker};
use proxy_core::identity::Identity;
use tokio::sync::watch;
use tracing::warn;

use crate::clock;
use crate::error::UpstreamError;
use crate::shared::Shared;
use crate::snapshot::Snapshot;
use crate::upstream::body::RequestBody;
use crate::upstream::connect::Http1Sender;

/// The user name the probe shows in the apiserver's audit log.
const USER: &str = "system:spillway-probe";

/// Starts probing; what is learned is in the tracker.
pub(crate) fn start(shared: &Arc<Shared>, stop: watch::Receiver<bool>) -> Rc<RefCell<Tracker>> {
    let snapshot = shared.snapshot.load();
    let tracker = Rc::new(RefCell::new(Tracker::new(
        settings(&snapshot),
        clock::now(),
    )));
    tokio::task::spawn_local(probe(Arc::clone(shared), Rc::clone(&tracker), stop));
    tracker
}

fn settings(snapshot: &Snapshot) -> ProbeSettings {
    ProbeSettings {
        timeout: snapshot.config.admission.probe.timeout,
        ..ProbeSettings::default()
    }
}

/// Probes under way at once. When the server stalls, those that wait tell so before any is answered; each has a
/// connection of its own.
const MOST_UNDER_WAY: u32 = 8;

struct Connection {
    sender: Http1Sender,
    generation: u64,
}

async fn probe(
    shared: Arc<Shared>,
    tracker: Rc<RefCell<Tracker>>,
    mut stop: watch::Receiver<bool>,
) {
    let kept: Rc<RefCell<Vec<Connection>>> = Rc::default();
    let under_way = Rc::new(Cell::new(0_u32));
    let mut generation = None;
    loop {
        let snapshot = shared.snapshot.load_full();
        if generation.replace(snapshot.generation) != Some(snapshot.generation) {
            tracker.borrow_mut().reconfigure(settings(&snapshot));
        }
        let interval = snapshot.config.admission.probe.interval;
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        if under_way.get() >= MOST_UNDER_WAY {
            continue;
        }
        under_way.set(under_way.get() + 1);
        let (tracker, kept, under_way) =
            (Rc::clone(&tracker), Rc::clone(&kept), Rc::clone(&under_way));
        let shared = Arc::clone(&shared);
        tokio::task::spawn_local(async move {
            once(&shared, &snapshot, &tracker, &kept).await;
            under_way.set(under_way.get().saturating_sub(1));
        });
    }
}

async fn once(
    shared: &Shared,
    snapshot: &Snapshot,
    tracker: &RefCell<Tracker>,
    kept: &RefCell<Vec<Connection>>,
) {
    let timeout = snapshot.config.admission.probe.timeout;
    // Connecting is not part of the delay: it is done before the clock starts, and a failure of it says "down".
    let Ok(sender) = connected(snapshot, kept).await else {
        let now = clock::now();
        let id = tracker.borrow_mut().sent(now);
        tracker.borrow_mut().failed(id, now, Failure::Connect);
        return count(shared, "connect_failed");
    };
    let id = tracker.borrow_mut().sent(clock::now());
    let result = tokio::time::timeout(timeout, ask(snapshot, sender)).await;
    let now = clock::now();
    match result {
        Ok(Ok((status, sender))) => {
            tracker.borrow_mut().answered(id, now);
            kept.borrow_mut().push(Connection {
                sender,
                generation: snapshot.generation,
            });
            count(shared, if status == 200 { "answered" } else { "refused" });
            if status != 200 {
                warn_once(status);
            }
        }
        Ok(Err(_)) => {
            tracker.borrow_mut().failed(id, now, Failure::Refused);
            count(shared, "broken");
        }
        Err(_) => {
            tracker.borrow_mut().failed(id, now, Failure::Timeout);
            count(shared, "timeout");
        }
    }
}

async fn connected(
    snapshot: &Snapshot,
    kept: &RefCell<Vec<Connection>>,
) -> Result<Http1Sender, UpstreamError> {
    loop {
        let Some(Connection {
            mut sender,
            generation,
        }) = kept.borrow_mut().pop()
        else {
            break;
        };
        if generation == snapshot.generation && !sender.is_closed() && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
    }
    snapshot.endpoint.http1(true).await
}

async fn ask(
    snapshot: &Snapshot,
    mut sender: Http1Sender,
) -> Result<(u16, Http1Sender), hyper::Error> {
    let mut request = Request::new(RequestBody::Empty);
    *request.method_mut() = Method::GET;
    *request.uri_mut() = snapshot
        .config
        .admission
        .probe
        .path
        .parse()
        .unwrap_or_else(|_| Uri::from_static("/livez/ping"));
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_static("kubernetes"));
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("spillway-probe/", env!("CARGO_PKG_VERSION"))),
    );
    let identity =
        Identity::certificate(USER, vec!["system:authenticated".into()], None, Vec::new());
    for (name, value) in snapshot
        .identity_headers
        .assertion(&identity)
        .into_iter()
        .flatten()
    {
        headers.append(name, value);
    }
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    // A few bytes; anything longer than a ping is not one.
    let _ = http_body_util::Limited::new(response.into_body(), 64 * 1024)
        .collect()
        .await;
    Ok((status, sender))
}

fn count(shared: &Shared, result: &'static str) {
    shared
        .metrics
        .counter("spillway_probes_total", &[("result", result)])
        .increment(1);
}

fn warn_once(status: u16) {
    use std::sync::Once;
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        warn!(status, "the apiserver refuses the probe; its delay still counts, but check the front-proxy certificate, \
                       the --requestheader flags and who may GET the probe's path");
    });
}
