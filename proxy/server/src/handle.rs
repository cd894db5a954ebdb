//! The data path on one page: what happens to a request, in the order in which it happens.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use config::Collapse;
use http::header::{CONNECTION, EXPECT, HeaderName, HeaderValue, USER_AGENT};
use http::{Request, Response, Version, request};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use proxy_core::admission::limits::Asked;
use proxy_core::admission::{Kind, Mode};
use proxy_core::classify::ClassId;
use proxy_core::time::Time;
use tower::Service as _;

use crate::accept::connection::Connection;
use crate::accept::tricks;
use crate::accept::worker::Worker;
use crate::account::log::Entry;
use crate::account::{AUDIT_ID, Account, Body, learn};
use crate::admit::{admit, orders};
use crate::attribute::{self, Facts};
use crate::classify::{classify, client as client_of};
use crate::clock;
use crate::error::{Error, Refused};
use crate::identify::{Identified, Judge};
use crate::lane::Lane;
use crate::names;
use crate::respond;
use crate::snapshot::Snapshot;
use crate::upstream::body::RequestBody;
use crate::upstream::collapse::{Joining, Key, Landed, Subscriber};
use crate::upstream::finish::Finishing;
use crate::upstream::stale::{self, Keeping};
use crate::upstream::{Outbound, headers, upgrade};

/// The longest audit id taken from a client, as kube-apiserver takes it.
const MOST_AUDIT_ID: usize = 64;

/// Answers one request, the `number`th of its connection. Never fails: whatever goes wrong becomes an answer.
pub(crate) async fn handle(
    connection: Rc<Connection>,
    number: u64,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let worker = &connection.worker;
    let snapshot = worker.shared.snapshot.load_full();
    let stopping = worker.shared.stopping.load(Ordering::Relaxed);
    let last = stopping && request.version() < Version::HTTP_2;
    let client = upgrade::wanted(request.headers()).then(|| hyper::upgrade::on(&mut request));
    let (head, body) = request.into_parts();
    let arrived = clock::now();
    let mut account = Account::open(
        &connection,
        &snapshot,
        arrived,
        entry(&connection, &snapshot, &head, arrived),
        connection.end_of(number),
    );
    let mut answer = match serve(&connection, &snapshot, &mut account, head, body, client).await {
        Ok(Served::Answer(mut response)) => {
            respond::tell_level(response.headers_mut(), worker.shared.engine.level());
            response.map(|(body, way)| Body::upstream(body, way, account))
        }
        Ok(Served::Stale(response)) => {
            account.answered(response.status().as_u16());
            response.map(Body::local)
        }
        Ok(Served::Shared(mut response)) => {
            respond::tell_level(response.headers_mut(), worker.shared.engine.level());
            response.map(|subscriber| Body::shared(subscriber, account))
        }
        Ok(Served::Tunnel(response, tunnel)) => {
            connection.tunnelled.set();
            account.tunnel();
            let idle = snapshot.config.listen.tunnel_idle;
            tokio::task::spawn_local(async move {
                let bytes = tunnel.run(idle).await.map_or(0, |(_, down)| down);
                account.tunnelled(bytes);
            });
            return Ok(response);
        }
        Err(error) => {
            let asked = respond::Asked::of(account.facts.as_ref());
            worker.note(&error);
            account.entry.refused = Some(error.to_string());
            let mut response = respond::error(&error, asked, fastrand::u32(..));
            respond::tell_level(response.headers_mut(), worker.shared.engine.level());
            if let Some(trace) = &mut account.entry.trace {
                trace.reason = response.headers().get(respond::REASON).cloned();
            }
            // Of what could not be read or whose sender is nobody there is nothing to explain.
            if account.class.is_some() {
                let id = account.entry.audit_id.get_or_insert_with(respond::audit_id);
                response.headers_mut().insert(AUDIT_ID, id.clone());
            }
            account.answered(response.status().as_u16());
            response
        }
    };
    if last {
        answer
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(answer)
}

enum Served {
    Answer(Response<(Incoming, Option<crate::upstream::Way>)>),
    Shared(Response<Subscriber>),
    Stale(Response<Bytes>),
    Tunnel(Response<Body>, upgrade::Tunnel),
}

async fn serve(
    connection: &Connection,
    snapshot: &Arc<Snapshot>,
    account: &mut Account,
    mut head: request::Parts,
    body: Incoming,
    client: Option<OnUpgrade>,
) -> Result<Served, Error> {
    let worker = &connection.worker;
    let address = connection.peer.ip();
    connection.requested();
    tricks::refuse(&head)?;

    // Identify.
    let now = clock::unix_seconds();
    let judge = Judge {
        snapshot,
        tokens: &worker.shared.tokens,
        published: &worker.shared.published_keys,
        now,
    };
    let identified = judge.identify(&connection.presented, &head.headers, worker.lane)?;
    account.identified(&identified);
    if worker.lane == Lane::Reserved {
        account.class = Some(snapshot.reserved_class());
        snapshot.reserved.check(&identified)?;
    }
    if identified.credential.proves() {
        connection.known();
    }

    // Attribute and classify.
    let attributes = attribute::read(&head)?;
    if let Some(trace) = &mut account.entry.trace {
        trace.reads(&attributes);
    }
    let judged = classify(
        &attributes,
        &identified.identity,
        &head.headers,
        address,
        worker.lane,
        snapshot,
    );
    account.judged(&judged, identified.identity.tenant());
    let (snapshot, classified) = (judged.snapshot, judged.classified);
    let facts = Facts::of(&attributes, &head.headers);
    let class = if worker.lane == Lane::Reserved {
        snapshot.reserved_class()
    } else {
        classified.class.index()
    };
    account.class = Some(class);
    account.entry.rule = Some(classified.rule);
    account.facts = Some(facts.clone());
    if facts.long_running && worker.shared.stopping.load(Ordering::Relaxed) {
        connection.leave();
        return Err(Refused::Stopping.into());
    }
    if client.is_some() && !may_tunnel(worker, snapshot) {
        return Err(Refused::TooManyTunnels.into());
    }

    let known = &worker.shared.names;
    worker.noted.note(known, identified.identity.tenant(), || {
        identified.identity.tenant_name().to_owned()
    });
    worker.noted.note(known, facts.shape.hash(), || {
        names::shape(&attributes, &facts)
    });

    let stale = &snapshot.config.admission.stale;
    let keep = stale::Key::of(&head, &attributes, &identified.identity, stale);
    let last = || {
        let key = keep.as_ref()?;
        let now = clock::now();
        let kept = worker.shared.stale.get(key, stale.max_age, now)?;
        let class = snapshot.class(classified.class);
        class.metrics.stale(&worker.shared.metrics);
        Some(Served::Stale(kept))
    };
    if worker.shared.down.load(Ordering::Relaxed)
        && let Some(served) = last()
    {
        return Ok(served);
    }

    let token = learn::token_to_learn(&identified, &head.headers);
    let joinable = client.is_none()
        && body.is_end_stream()
        && shall_collapse(
            worker,
            snapshot,
            classified.class,
            identified.identity.tenant(),
        );
    let key = joinable
        .then(|| Key::of(&head, &attributes, &identified, snapshot))
        .flatten();

    // Admit, once the client has done its part: what the server has to wait for takes no seat from others.
    let mut body = RequestBody::new(body);
    if !facts.long_running && !head.headers.contains_key(EXPECT) {
        body.gather().await?;
    }
    let asked = Asked {
        attributes: &attributes,
        identity: &identified.identity,
        client: client_of(&head.headers, address),
        class: classified.class,
        instance: identified.identity.instance(connection.address_hash),
        work: match judged.want_work() {
            true => worker.shared.costs.estimate(&facts.shape).work(),
            false => Duration::ZERO,
        },
    };
    let obeyed = orders::obey(worker, snapshot, &facts, &asked, now);
    if let Some((trial, _, other)) = judged.trial {
        account.rehearses(orders::rehearse(worker, trial, &asked, other, &obeyed));
    }
    account.holds(obeyed?);
    let mut leader = None;
    match key.map(|key| worker.upstream.calls().join(key)) {
        Some(Joining::Joins(follower)) => {
            if let Some(response) = follower.answer().await {
                let class = snapshot.class(classified.class);
                class.metrics.collapsed(&worker.shared.metrics);
                account.joined(response.status(), response.headers());
                return Ok(Served::Shared(response));
            }
        }
        Some(Joining::Leads(leads)) => leader = Some(leads),
        Some(Joining::Alone) | None => {}
    }
    let permit = admit(
        worker,
        snapshot,
        &facts,
        classified.class,
        &identified,
        connection.address_hash,
    )
    .await?;
    account.admitted(permit);
    body.seen_by(account.sight());

    // Upstream.
    headers::take_off(
        &mut head.headers,
        &snapshot.identity_headers,
        client.is_some(),
        identified.stated,
    );
    headers::put_on(
        &mut head.headers,
        address,
        assertion(snapshot, &identified)?,
    );
    if let Some(trace) = &mut account.entry.trace {
        trace.put_on(&mut head.headers);
    }
    let outbound = Outbound {
        head,
        body,
        credential: identified.credential,
        traffic: facts.traffic,
        snapshot: Arc::clone(snapshot),
    };
    let (mut response, way) = match client {
        Some(client) => match upgrade::send(outbound, client).await? {
            upgrade::Answer::Switched(response, tunnel) => {
                account.head(response.status(), response.headers());
                return Ok(Served::Tunnel(response.map(|_| Body::Local(None)), tunnel));
            }
            upgrade::Answer::Ordinary(response) => (response, None),
        },
        None => {
            if let Some(leader) = &leader {
                leader.sent();
            }
            let asking = worker.upstream.clone().call(outbound);
            let inbound = match facts.kind {
                Kind::Short if !facts.long_running => {
                    let (inbound, leases) =
                        Finishing::new(asking, account.sight(), account.lend()).await?;
                    account.holds(leases);
                    inbound
                }
                _ => match account.unless_ended(asking).await {
                    Err(Error::Upstream(error)) if error.unreachable() => {
                        // Nobody has seen yet that it is away.
                        return last().ok_or_else(|| error.into());
                    }
                    asked => asked?,
                },
            };
            (inbound.response, Some(inbound.way))
        }
    };

    // Account: the head now, the rest as the body streams by.
    headers::take_off_answer(response.headers_mut());
    account.head(response.status(), response.headers());
    if let Some(key) = keep {
        let (store, now) = (&worker.shared.stale, clock::now());
        let (status, headers) = (response.status(), response.headers());
        account.keep(Keeping::begin(store, key, status, headers, stale, now));
    }
    learn::from_answer(worker, snapshot, &identified, token, response.status(), now);
    Ok(match (leader, way) {
        (Some(leader), Some(way)) => match leader.landed(response, way) {
            Landed::Own(response, way) => Served::Answer(response.map(|body| (body, Some(way)))),
            Landed::Shared(response) => Served::Shared(response),
        },
        (_, way) => Served::Answer(response.map(|body| (body, way))),
    })
}

/// Whether identical reads of this tenant share their calls now.
fn shall_collapse(worker: &Worker, snapshot: &Snapshot, class: ClassId, tenant: u64) -> bool {
    let shared = &worker.shared;
    let now = match snapshot.config.admission.collapse {
        Collapse::Off => false,
        Collapse::Congested => !shared.is_calm() || shared.engine.somebody_waits(),
        Collapse::Always => true,
    };
    now && worker.lane == Lane::Main && shared.engine.mode_of(class, tenant) == Mode::Enforce
}

/// The reserved lane's sessions are bounded by its connections.
fn may_tunnel(worker: &Worker, snapshot: &Snapshot) -> bool {
    let open = worker.lane_state().tunnels.load(Ordering::Relaxed);
    worker.lane == Lane::Reserved || open < u64::from(snapshot.config.listen.max_tunnels)
}

fn entry(
    connection: &Connection,
    snapshot: &Snapshot,
    head: &request::Parts,
    arrived: Time,
) -> Entry {
    let traces = &connection.worker.shared.traces;
    let traced = snapshot.traces.is_some();
    let root = || http::uri::PathAndQuery::from_static("/");
    Entry {
        method: head.method.clone(),
        path: head.uri.path_and_query().cloned().unwrap_or_else(root),
        address: connection.peer.ip(),
        identity: None,
        audit_id: head
            .headers
            .get(AUDIT_ID)
            .filter(|id| id.len() <= MOST_AUDIT_ID)
            .cloned(),
        refused: None,
        joined: false,
        break_glass: false,
        user_agent: head.headers.get(USER_AGENT).cloned(),
        rule: None,
        cost: Duration::ZERO,
        trace: traced
            .then(|| traces.begin(&snapshot.config.traces, head, arrived))
            .flatten(),
    }
}

/// The headers that assert a verified certificate's identity; `None` for everything else.
fn assertion(
    snapshot: &Snapshot,
    identified: &Identified,
) -> Result<Option<Vec<(HeaderName, HeaderValue)>>, Refused> {
    if !identified.credential.is_asserted() {
        return Ok(None);
    }
    // A name that no header can hold is one the server could not be told: better nobody than somebody else.
    snapshot
        .identity_headers
        .assertion(&identified.identity)
        .ok_or(Refused::Unauthorized)
        .map(Some)
}
