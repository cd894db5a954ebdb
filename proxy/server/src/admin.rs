//! The admin side: metrics, liveness, readiness, the console. Plain HTTP on loopback, on a thread of its own.
//!
//! Here tower's ready-made parts do the work: a request takes a bounded time, and there is a bounded number of them.

mod commands;
mod console;
mod costs;
mod guard;
pub(crate) mod inherit;
mod policy;
mod sensors;
pub(crate) mod socket;
pub(crate) mod status;
pub(crate) mod tenants;

use std::convert::Infallible;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proxy_core::admission::{Mode, TunerState};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tower::{Service, ServiceBuilder, ServiceExt as _, service_fn as tower_service};

use crate::lane::Lane;
use crate::logging;
use crate::measures::Action;
use crate::policy::page;
use crate::shared::Shared;

type Page = Response<Full<Bytes>>;

/// Connections at once; the next one waits to be accepted. Idle ones are closed in time.
const MAX_CONNECTIONS: usize = 256;
/// Requests served at once; the rest wait.
const CONCURRENCY: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until `stop` turns true. Runs inside a `LocalSet`.
pub(crate) async fn serve(
    listener: StdListener,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let _ = shared.admin_address.set(listener.local_addr()?);
    let listener = TcpListener::from_std(listener)?;
    let pages = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(CONCURRENCY)
        .timeout(TIMEOUT)
        .service(tower_service(move |request: Request<Incoming>| {
            let shared = Arc::clone(&shared);
            async move {
                let path = request.uri().path();
                Ok::<_, Infallible>(if console::serves(path) {
                    console::answer(&shared, request).await
                } else if guard::open_to_any_name(path) || guard::is_local(&request) {
                    page(&shared, request.method(), path)
                } else {
                    guard::not_local()
                })
            }
        }));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place.map_err(std::io::Error::other)?,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        let pages = pages.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| answer(pages.clone(), request));
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(place);
        });
    }
}

async fn answer<S>(pages: S, request: Request<Incoming>) -> Result<Page, Infallible>
where
    S: Service<Request<Incoming>, Response = Page>,
    S::Error: std::fmt::Display,
{
    Ok(pages
        .oneshot(request)
        .await
        .unwrap_or_else(|error| text(StatusCode::SERVICE_UNAVAILABLE, error.to_string())))
}

fn page(shared: &Shared, method: &Method, path: &str) -> Page {
    if method != Method::GET && method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET");
    }
    match path {
        "/metrics" => {
            refresh(shared);
            let series = shared.metrics.render() + &tenants::series(shared);
            let mut page = text(StatusCode::OK, series);
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            page.headers_mut().insert(CONTENT_TYPE, kind);
            page
        }
        "/livez" => text(StatusCode::OK, "ok"),
        "/readyz" => readiness(shared),
        "/tenants" => json(&tenants::page(shared)),
        "/costs" => json(&costs::page(shared)),
        _ => text(
            StatusCode::NOT_FOUND,
            "pages: /console /metrics /livez /readyz /tenants /costs",
        ),
    }
}

/// Ready: accepting, not stopping, and the apiserver answers.
fn readiness(shared: &Shared) -> Page {
    let stopping = shared.stopping.load(Ordering::Relaxed);
    let down = shared.probe.lock().is_ok_and(|probe| probe.down);
    let accepting = shared.lane(Lane::Main).up.load(Ordering::Relaxed) == 1;
    let lines = [
        ("stopping", !stopping),
        ("main-lane", accepting),
        ("upstream", !down),
    ];
    let ready = lines.iter().all(|(_, good)| *good);
    let mut page = String::new();
    for (name, good) in lines {
        page.push_str(if good { "[+]" } else { "[-]" });
        page.push_str(name);
        page.push_str(if good { " ok\n" } else { " failed\n" });
    }
    text(
        if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        },
        page,
    )
}

const TUNER_STATES: [(TunerState, &str); 5] = [
    (TunerState::Hold, "hold"),
    (TunerState::Brake, "brake"),
    (TunerState::Grow, "grow"),
    (TunerState::SlowStart, "slow_start"),
    (TunerState::FailOpen, "fail_open"),
];

const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Off => "off",
        Mode::Shadow => "shadow",
        Mode::Enforce => "enforce",
    }
}

/// Gauges are written when somebody looks.
fn refresh(shared: &Shared) {
    let metrics = &shared.metrics;
    let snapshot = shared.snapshot.load();
    let view = shared.engine.view(crate::clock::now());
    let gauge =
        |name, labels: &[(&'static str, &str)], value: f64| metrics.gauge(name, labels).set(value);
    for (kind, bound) in [("short", &view.limit), ("long", &view.breadth)] {
        gauge(
            "spillway_limit_seconds",
            &[("kind", kind)],
            bound.ceiling.as_secs_f64(),
        );
    }
    for (class, seen) in snapshot.classes.iter().zip(&view.classes) {
        let name = &*class.name;
        for (kind, bound) in [("short", &seen.short), ("long", &seen.long)] {
            let labels = [("class", name), ("kind", kind)];
            gauge(
                "spillway_ceiling_seconds",
                &labels,
                bound.ceiling.as_secs_f64(),
            );
            gauge(
                "spillway_outstanding_seconds",
                &labels,
                bound.outstanding.as_secs_f64(),
            );
            gauge("spillway_running_requests", &labels, bound.running as f64);
            gauge("spillway_waiting_requests", &labels, bound.waiting as f64);
            gauge("spillway_turn_bar", &labels, f64::from(bound.bar));
        }
        metrics
            .counter("spillway_forced_total", &[("class", name)])
            .absolute(seen.forced);
    }
    if let Some(level) = shared.engine.level() {
        gauge("spillway_level_class", &[], f64::from(level.class.0));
        gauge("spillway_level_user", &[], f64::from(level.user));
    } else {
        // Beyond the last class: nothing is refused.
        gauge("spillway_level_class", &[], view.classes.len() as f64);
        gauge("spillway_level_user", &[], 0.0);
    }
    gauge("spillway_outstanding_bytes", &[], view.bytes as f64);
    gauge("spillway_bytes_budget_bytes", &[], view.bytes_budget as f64);
    if let Ok(probe) = shared.probe.lock() {
        gauge(
            "spillway_probe_delay_seconds",
            &[],
            probe.excess.as_secs_f64(),
        );
        gauge(
            "spillway_probe_baseline_seconds",
            &[],
            probe.baseline.as_secs_f64(),
        );
        gauge(
            "spillway_upstream_up",
            &[],
            f64::from(u8::from(!probe.down)),
        );
    }
    for used in snapshot.limits.in_use() {
        let labels = [("limit", used.limit), ("bound", used.what.as_str())];
        gauge("spillway_limit_in_use", &labels, f64::from(used.most));
        gauge("spillway_limit_bound", &labels, f64::from(used.bound));
    }
    let measures = shared.measures.list();
    for (action, blocks) in [("block", true), ("slow", false)] {
        let of_it = measures
            .iter()
            .filter(|listed| (listed.measure.action == Action::Block) == blocks);
        gauge(
            "spillway_measures",
            &[("action", action)],
            of_it.count() as f64,
        );
    }
    configured(shared, &snapshot.config);
    let access = shared.access.as_ref().map(|access| access.lines().counts());
    logging::refresh(metrics, access.as_deref());
    shared.traces.refresh(metrics);
    sensors::refresh(shared);
    page::refresh(shared);
    for mode in [Mode::Off, Mode::Shadow, Mode::Enforce] {
        gauge(
            "spillway_mode",
            &[("mode", mode_name(mode))],
            f64::from(u8::from(view.mode == mode)),
        );
    }
    for (state, name) in TUNER_STATES {
        gauge(
            "spillway_tuner_state",
            &[("state", name)],
            f64::from(u8::from(view.state == state)),
        );
    }
    for (class, seen) in snapshot.classes.iter().zip(&view.classes) {
        for mode in [Mode::Off, Mode::Shadow, Mode::Enforce] {
            gauge(
                "spillway_class_mode",
                &[("class", &class.name), ("mode", mode_name(mode))],
                f64::from(u8::from(seen.mode == mode)),
            );
        }
    }
    let changes = shared.overrides.all().len();
    gauge("spillway_mode_changes", &[], changes as f64);
    if let Some(check) = shared.lane_check.view() {
        gauge(
            "spillway_reserved_lane_check_success",
            &[],
            f64::from(u8::from(check.success)),
        );
        gauge(
            "spillway_reserved_lane_check_timestamp_seconds",
            &[],
            check.at as f64,
        );
    }
    for lane in Lane::ALL {
        let state = shared.lane(lane);
        let labels = [("lane", lane.name())];
        gauge(
            "spillway_lane_in_flight",
            &labels,
            state.in_flight.load(Ordering::Relaxed) as f64,
        );
        gauge(
            "spillway_lane_connections",
            &labels,
            state.connections.load(Ordering::Relaxed) as f64,
        );
        gauge(
            "spillway_tunnels",
            &labels,
            state.tunnels.load(Ordering::Relaxed) as f64,
        );
        gauge(
            "spillway_lane_up",
            &labels,
            f64::from(state.up.load(Ordering::Relaxed)),
        );
    }
    for (pool, traffic, connections, streams) in shared.pools() {
        let labels = [("pool", pool), ("traffic", traffic)];
        gauge("spillway_upstream_connections", &labels, connections as f64);
        gauge("spillway_upstream_streams", &labels, streams as f64);
    }
    for (role, until) in &snapshot.expiries {
        gauge(
            "spillway_certificate_expiry_timestamp_seconds",
            &[("role", role)],
            *until as f64,
        );
    }
}

/// Bounds that the configuration sets, so that alerts need not repeat them.
fn configured(shared: &Shared, config: &config::Config) {
    let gauge = |name, labels: &[(&'static str, &str)], value: f64| {
        shared.metrics.gauge(name, labels).set(value);
    };
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    gauge("spillway_build_info", &version, 1.0);
    let target = config.admission.probe.target.as_secs_f64();
    gauge("spillway_probe_target_seconds", &[], target);
    let connections = |lane: Lane, most: u32| {
        let labels = [("lane", lane.name())];
        gauge("spillway_lane_connections_limit", &labels, f64::from(most));
    };
    connections(Lane::Main, config.listen.max_connections);
    // A lane that is switched off has no bounds, and so is not missed.
    if !config.listen.reserved.is_empty() {
        connections(Lane::Reserved, config.reserved.max_connections);
        gauge(
            "spillway_lane_in_flight_limit",
            &[("lane", Lane::Reserved.name())],
            f64::from(config.reserved.max_in_flight),
        );
    }
}

fn json(value: &serde_json::Value) -> Page {
    let mut page = text(StatusCode::OK, value.to_string());
    let kind = HeaderValue::from_static("application/json");
    page.headers_mut().insert(CONTENT_TYPE, kind);
    page
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(body.into()));
    *page.status_mut() = status;
    page.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    page
}
