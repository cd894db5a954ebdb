//! One request from its head to the head of its response.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::auth::{Peer, User};
use super::clock;
use super::cpu::Thread;
use super::discovery;
use super::form::Form;
use super::list::{self, Page, Writer};
use super::process::{Process, Shared};
use super::protobuf;
use super::request::{Info, ListOptions, Verb};
use super::resources::{self, Resource};
use super::respond::{self, Payload, Reply};
use super::review;
use super::seats::{self, Level};
use super::selector::Selector;
use super::stats::Gauge;
use super::status::ApiError;
use super::watch::Watch;
use super::write::Write;

/// Kubernetes' limit of a request body.
const MAX_BODY: usize = 3 << 20;

/// Frames a stream may be ahead of its reader.
const AHEAD: usize = 2;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
const FLOW_SCHEMA: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const PRIORITY_LEVEL: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// What came of a request.
pub(super) struct Outcome {
    pub(super) reply: Reply,
    /// The caller was anonymous or unknown: over HTTP/2 such a connection is
    /// closed (`UnauthenticatedHTTP2DOSMitigation`).
    pub(super) unauthenticated: bool,
}

/// One request and where it runs.
struct Call {
    shared: Arc<Shared>,
    process: Arc<Process>,
    thread: Thread,
    info: Info,
    head: http::request::Parts,
    deadline: Instant,
}

/// Answers a request; never fails, errors are responses.
pub(super) async fn handle(
    shared: Arc<Shared>,
    process: Arc<Process>,
    peer: Arc<Peer>,
    request: Request<Incoming>,
) -> Outcome {
    let _in_flight = Gauge::new(&shared.counters, |stats| &mut stats.in_flight);
    let (head, body) = request.into_parts();
    let audit_id = head.headers.get(&AUDIT_ID).cloned();
    let is_head = head.method == Method::HEAD;
    let counters = shared.counters.clone();
    let mut verb = "other";
    let mut outcome = match Info::parse(&head.method, &head.uri) {
        Err(error) => Outcome {
            reply: respond::error(&error),
            unauthenticated: false,
        },
        Ok(info) => {
            verb = info.verb.name();
            let timeout = match info.query.get("timeout").and_then(go_seconds) {
                Some(asked) if asked > Duration::ZERO => asked.min(shared.options.request_timeout),
                _ => shared.options.request_timeout,
            };
            let call = Call {
                thread: process.cpu.thread(),
                deadline: Instant::now() + timeout,
                shared,
                process,
                info,
                head,
            };
            call.run(&peer, body).await
        }
    };
    let headers = outcome.reply.headers_mut();
    let id = audit_id.or_else(|| HeaderValue::from_str(&clock::uuid()).ok());
    headers.extend(id.map(|id| (AUDIT_ID, id)));
    let cache = HeaderValue::from_static("no-cache, private");
    headers.insert(header::CACHE_CONTROL, cache);
    counters.served(verb, outcome.reply.status().as_u16());
    if is_head {
        *outcome.reply.body_mut() = Payload::Full(None);
    }
    outcome
}

/// `?timeout=` in Go's notation, as far as clients use it: "32s", "1m", "10".
fn go_seconds(text: &str) -> Option<Duration> {
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let scale = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * scale).ok()
}

impl Call {
    async fn run(mut self, peer: &Peer, body: Incoming) -> Outcome {
        let deadline = self.deadline;
        let mut unauthenticated = false;
        let answer = tokio::time::timeout_at(deadline, async {
            let shared = self.shared.clone();
            let user = shared
                .auth
                .authenticate(&self.head.headers, peer, &shared.store)
                .inspect_err(|_| unauthenticated = true)?;
            unauthenticated |= user.is_anonymous();
            if let Some(reply) = self.probe().await {
                return Ok(reply);
            }
            let cost = shared.costs.authentication;
            self.thread.charge(cost, 1).await;
            self.admitted(user, body).await
        })
        .await
        .unwrap_or_else(|_| Err(ApiError::timeout()));
        Outcome {
            reply: answer.unwrap_or_else(|error| respond::error(&error)),
            unauthenticated,
        }
    }

    /// Health is exempt from everything but the processor.
    async fn probe(&mut self) -> Option<Reply> {
        match self.info.path.split('/').nth(1) {
            Some("livez" | "readyz" | "healthz") => {}
            _ => return None,
        }
        let costs = &self.shared.costs;
        self.thread.charge(costs.probe, costs.probe_hops).await;
        Some(respond::text(200, "ok"))
    }

    /// Authorization and seats.
    async fn admitted(self, user: User, body: Incoming) -> Result<Reply, ApiError> {
        let path = &self.info.path;
        if user.is_anonymous() && !discovery::is_discovery(path) {
            return Err(ApiError::forbidden(&user.name, path));
        }
        let level = seats::level(&user, &self.info);
        let process = self.process.clone();
        let Ok(seated) = process.seats.take(level, self.seats()).await else {
            self.shared.counters.update(|stats| stats.rejected += 1);
            let mut reply = respond::too_many();
            mark_level(&mut reply, level);
            return Ok(reply);
        };
        let mut reply = if self.info.verb == Verb::NonResource {
            let reply = self.non_resource().await;
            drop(seated);
            reply?
        } else {
            let target = &self.info.target;
            let resource = resources::find(&target.group, &target.version, &target.resource)
                .ok_or_else(ApiError::no_such_path)?;
            match self.info.verb {
                Verb::List => self.list(resource, seated).await?,
                Verb::Watch => self.watch(resource, seated).await?,
                _ => self.single(resource, &user, body).await?,
            }
        };
        mark_level(&mut reply, level);
        Ok(reply)
    }

    /// What the request takes in Priority and Fairness.
    fn seats(&self) -> u32 {
        let target = &self.info.target;
        if !matches!(self.info.verb, Verb::List | Verb::Watch) {
            return 1;
        }
        let Some(resource) = resources::find(&target.group, &target.version, &target.resource)
        else {
            return 1;
        };
        let (count, bytes) = self
            .shared
            .store
            .size(resource, target.namespace.as_deref());
        let limited = match self.info.query.number("limit") {
            Ok(Some(limit)) if limit > 0 && limit < count => bytes / count * limit,
            _ => bytes,
        };
        seats::list_seats(limited)
    }

    fn accept(&self) -> Option<&str> {
        self.head.headers.get(header::ACCEPT)?.to_str().ok()
    }

    async fn non_resource(mut self) -> Result<Reply, ApiError> {
        let costs = self.shared.costs.clone();
        self.thread.charge(costs.read, costs.read_hops).await;
        if self.head.method != Method::GET && self.head.method != Method::HEAD {
            return Err(ApiError::method_not_allowed());
        }
        discovery::answer(&self.info.path, self.accept()).ok_or_else(ApiError::no_such_path)
    }

    fn selector(&self, resource: &Resource, options: &ListOptions) -> Result<Selector, ApiError> {
        Selector::compile(
            resource.plural,
            options.labels.as_deref(),
            options.fields.as_deref(),
        )
    }

    async fn list(
        mut self,
        resource: &'static Resource,
        seated: seats::Seated,
    ) -> Result<Reply, ApiError> {
        let options = ListOptions::parse(&self.info.query)?;
        let selector = self.selector(resource, &options)?;
        let form = Form::negotiate(self.accept(), &self.info.query)?;
        if resource.virtual_only {
            return Err(ApiError::method_not_allowed());
        }
        if options.limit.is_none() && !self.process.is_warm(resource) {
            return Err(ApiError::initializing());
        }
        let namespace = self.info.target.namespace.as_deref();
        let page =
            Page::select(&self.shared.store, resource, namespace, &options, &selector).await?;
        let factor = self.shared.options.memory_factor;
        let hold = self
            .process
            .memory
            .hold((page.bytes(form) as f64 * factor) as u64);
        let mut writer = Writer::new(resource, form, self.shared.costs.clone(), page);
        let first = writer.next(&mut self.thread).await.unwrap_or_default();
        if writer.finished() {
            return Ok(respond::json(200, first));
        }
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (thread, deadline) = (self.thread, self.deadline);
        tokio::spawn(async move {
            list::send(writer, first, thread, sender, deadline).await;
            drop((hold, seated));
        });
        Ok(respond::stream(receiver))
    }

    async fn watch(
        mut self,
        resource: &'static Resource,
        seated: seats::Seated,
    ) -> Result<Reply, ApiError> {
        let options = ListOptions::parse(&self.info.query)?;
        let mut selector = self.selector(resource, &options)?;
        if let Some(name) = &self.info.target.name {
            selector = selector.and_name(name);
        }
        let form = Form::negotiate(self.accept(), &self.info.query)?;
        if resource.virtual_only {
            return Err(ApiError::method_not_allowed());
        }
        if options.send_initial_events
            && self.info.query.get("resourceVersionMatch") != Some("NotOlderThan")
        {
            return Err(ApiError::invalid(
                "ListOptions",
                "",
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        if !self.process.is_warm(resource) {
            return Err(ApiError::initializing());
        }
        let shared = &self.shared;
        let mut watch = Watch {
            store: shared.store.clone(),
            costs: shared.costs.clone(),
            resource,
            namespace: self.info.target.namespace.clone(),
            selector,
            form,
            after: 0,
            initial: Vec::new(),
            mark_initial: false,
            bookmarks: options.bookmarks,
            bookmark_every: shared.options.bookmark_every,
            lasts: match options.timeout_seconds {
                Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
                _ => Duration::from_secs(fastrand::u64(1800..3600)),
            },
        };
        watch.start(&options)?;
        self.thread
            .charge(shared.costs.read, shared.costs.read_hops)
            .await;
        let open = Gauge::new(&shared.counters, |stats| &mut stats.watches);
        let (sender, receiver) = mpsc::channel(AHEAD);
        let thread = self.thread;
        tokio::spawn(async move {
            watch.run(thread, sender, seated).await;
            drop(open);
        });
        Ok(respond::stream(receiver))
    }

    /// Everything about one object, and DELETE of a collection.
    async fn single(
        mut self,
        resource: &'static Resource,
        user: &User,
        body: Incoming,
    ) -> Result<Reply, ApiError> {
        let mut body = read(body).await?;
        if content_type(&self.head.headers) == protobuf::CONTENT_TYPE && !body.is_empty() {
            body = protobuf::decode(&body)
                .ok_or_else(|| ApiError::unsupported_media(protobuf::CONTENT_TYPE))?
                .to_string()
                .into();
        }
        let shared = self.shared.clone();
        let (store, costs) = (&*shared.store, &shared.costs);
        let verb = self.info.verb;
        let (cost, hops) = match verb {
            Verb::Get => (costs.read, costs.read_hops),
            _ => (costs.write, costs.read_hops),
        };
        self.thread.charge(cost, hops).await;
        let target = &self.info.target;
        let form = Form::negotiate(self.accept(), &self.info.query)?;
        let subresource = target.subresource.as_deref();
        if verb == Verb::Create
            && resource.plural == "serviceaccounts"
            && subresource == Some("token")
        {
            let answer = review::token_request(target, &shared.auth, store, &body)?;
            return Ok(respond::value(201, &answer));
        }
        match subresource {
            None => {}
            Some("status") if resource.status && verb != Verb::Delete => {}
            Some(_) => return Err(ApiError::no_such_path()),
        }
        if resource.virtual_only {
            if verb != Verb::Create {
                return Err(ApiError::method_not_allowed());
            }
            let answer = review::answer(
                resource.plural,
                resource.kind,
                &resource.api_version(),
                user,
                &shared.auth,
                store,
                &body,
            )?;
            return Ok(respond::value(201, &answer));
        }
        let write = Write {
            store,
            resource,
            target,
            query: &self.info.query,
        };
        let (code, object) = match verb {
            Verb::Get => {
                let namespace = target.namespace.as_deref().unwrap_or("");
                let name = target.name.as_deref().unwrap_or("");
                (200, store.get(resource, namespace, name)?)
            }
            Verb::Create if target.name.is_none() => (201, write.create(&body)?),
            Verb::Update => (200, write.update(&body)?),
            Verb::Patch => {
                let (object, created) = write.patch(&self.head.headers, &body)?;
                (if created { 201 } else { 200 }, object)
            }
            Verb::Delete => return Ok(respond::value(200, &write.delete(&body)?)),
            Verb::DeleteCollection => return self.delete_collection(resource).await,
            _ => return Err(ApiError::method_not_allowed()),
        };
        if form == Form::Whole {
            return Ok(respond::json(code, object.json().clone()));
        }
        let mut out = Vec::new();
        form.single(resource, &object, clock::unix_now(), &mut out);
        Ok(respond::json(code, out))
    }

    async fn delete_collection(mut self, resource: &'static Resource) -> Result<Reply, ApiError> {
        let options = ListOptions::parse(&self.info.query)?;
        let selector = self.selector(resource, &options)?;
        let shared = self.shared.clone();
        let write = Write {
            store: &shared.store,
            resource,
            target: &self.info.target,
            query: &self.info.query,
        };
        let namespace = self.info.target.namespace.as_deref();
        for object in shared.store.snapshot(resource, namespace).objects {
            if selector.matches(&object) {
                self.thread.charge(shared.costs.write, 1).await;
                // Gone already is deleted too.
                let _ = write.remove(&object);
            }
        }
        let done = super::status::success(resource.plural, "", "");
        Ok(respond::value(200, &done))
    }
}

/// The media type of a body; JSON when there is none.
fn content_type(headers: &http::HeaderMap) -> &str {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map_or("application/json", str::trim)
}

/// A request body within the server's limit.
async fn read(body: Incoming) -> Result<Bytes, ApiError> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(ApiError::too_large_body())
        }
        Err(error) => Err(ApiError::bad_request(format!("reading the body: {error}"))),
    }
}

/// The headers that say which level decided; made-up UIDs, one per level.
fn mark_level(reply: &mut Reply, level: Level) {
    for (name, salt) in [(FLOW_SCHEMA, 1), (PRIORITY_LEVEL, 2)] {
        let uid = format!("00000000-0000-4000-8000-{:012x}", salt * 256 + level as u32);
        if let Ok(uid) = HeaderValue::from_str(&uid) {
            reply.headers_mut().insert(name, uid);
        }
    }
}
