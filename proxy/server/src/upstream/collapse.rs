//! Identical reads of the same caller share one call.
//!
//! A hundred pods with one credential that LIST the same thing at the same moment need one answer. Who comes second
//! **joins** the first one's call and is passed its answer as it comes, for next to nothing.
//!
//! **Whose.** Joined is only what the server could not tell apart: the same credential (the identity we assert, or the very
//! same token), the same URL, and the same headers but for those that only say who sent it and what it belongs to.
//!
//! **When.** An answer must not be older than the call it answers. A read that wants the most recent state (no
//! `resourceVersion`) therefore joins only a call that has not been sent yet, which is still waiting for admission: what
//! the server then says is as new as if both had asked. One that is content with any state, or with any from a version on,
//! may also join a call on its way, until the head of its answer is here; from then on what it says is fixed.
//!
//! **What not.** Watches, writes, anything with a body; answers that are not simply 200 or that set cookies: those are the
//! first one's alone, and the others ask for themselves. So they do when the first one is refused or leaves before its
//! answer begins, and they do not join again.
//!
//! Per worker: nothing is locked, and as many calls go out as there are workers.

pub(super) mod key;
mod stream;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use http::header::SET_COOKIE;
use http::{HeaderMap, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::sync::Notify;

use super::Way;
pub(crate) use key::Key;
use stream::{Budget, Stream};
pub(crate) use stream::{Cut, Subscriber};

/// Calls that can be joined, of one worker.
const MOST_CALLS: usize = 256;
/// Who may join one.
const MOST_JOINED: usize = 4_096;

/// The calls of one worker that can be joined.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    open: RefCell<HashMap<Key, Rc<Call>>>,
    budget: Rc<Budget>,
}

/// A call others may join.
#[derive(Debug, Default)]
struct Call {
    stage: RefCell<Stage>,
    changed: Notify,
    /// By place: whether somebody still waits there. The first is whose call it is.
    places: RefCell<Vec<bool>>,
    joined: Cell<usize>,
}

#[derive(Debug, Default)]
enum Stage {
    /// No answer yet.
    #[default]
    Under,
    /// The answer has begun.
    Landed(Head, Rc<Stream>),
    /// Everybody for themselves.
    Off,
}

#[derive(Clone, Debug)]
struct Head {
    status: StatusCode,
    version: Version,
    headers: HeaderMap,
}

impl Head {
    fn with<B>(&self, body: B) -> Response<B> {
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.version_mut() = self.version;
        *response.headers_mut() = self.headers.clone();
        response
    }
}

/// What a read does.
pub(crate) enum Joining {
    /// It waits for another's answer.
    Joins(Follower),
    /// It makes the call, and others may join it.
    Leads(Leader),
    /// It makes the call.
    Alone,
}

impl Calls {
    /// What a read with this key does.
    pub(crate) fn join(self: &Rc<Self>, key: Key) -> Joining {
        let mut open = self.open.borrow_mut();
        if let Some(call) = open.get(&key) {
            let mut places = call.places.borrow_mut();
            if places.len() > MOST_JOINED {
                return Joining::Alone;
            }
            places.push(true);
            call.joined.set(call.joined.get() + 1);
            return Joining::Joins(Follower {
                call: Rc::clone(call),
                place: places.len() - 1,
                there: true,
            });
        }
        if open.len() >= MOST_CALLS {
            return Joining::Alone;
        }
        let call = Rc::new(Call::default());
        call.places.borrow_mut().push(true);
        open.insert(key.clone(), Rc::clone(&call));
        Joining::Leads(Leader {
            calls: Rc::clone(self),
            call,
            key,
        })
    }

    /// How many calls can be joined.
    #[cfg(test)]
    fn open(&self) -> usize {
        self.open.borrow().len()
    }
}

/// Who makes a call that others may join. Dropped before the answer begins, it leaves them to themselves.
pub(crate) struct Leader {
    calls: Rc<Calls>,
    call: Rc<Call>,
    key: Key,
}

/// The body of an answer: one's own alone, or shared.
pub(crate) enum Landed {
    Own(Response<Incoming>, Way),
    Shared(Response<Subscriber>),
}

impl Leader {
    /// The call is being sent: who wants the most recent state comes too late from here on.
    pub(crate) fn sent(&self) {
        if !self.key.any_state() {
            self.close();
        }
    }

    /// The head of the answer is here.
    pub(crate) fn landed(self, response: Response<Incoming>, way: Way) -> Landed {
        self.close();
        let shareable =
            response.status() == StatusCode::OK && !response.headers().contains_key(SET_COOKIE);
        if self.call.joined.get() == 0 || !shareable {
            return Landed::Own(response, way);
        }
        let (parts, body) = response.into_parts();
        let head = Head {
            status: parts.status,
            version: parts.version,
            headers: parts.headers,
        };
        let places = std::mem::take(&mut *self.call.places.borrow_mut());
        let stream = Stream::new(body, way, &places, Rc::clone(&self.calls.budget));
        let own = head.with(Subscriber::new(Rc::clone(&stream), 0));
        self.tell(Stage::Landed(head, stream));
        Landed::Shared(own)
    }

    /// Nobody joins any more.
    fn close(&self) {
        let mut open = self.calls.open.borrow_mut();
        if open
            .get(&self.key)
            .is_some_and(|call| Rc::ptr_eq(call, &self.call))
        {
            open.remove(&self.key);
        }
    }

    fn tell(&self, stage: Stage) {
        *self.call.stage.borrow_mut() = stage;
        self.call.changed.notify_waiters();
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.close();
        let under = matches!(*self.call.stage.borrow(), Stage::Under);
        if under {
            self.tell(Stage::Off);
        }
    }
}

/// Who has joined another's call.
pub(crate) struct Follower {
    call: Rc<Call>,
    place: usize,
    there: bool,
}

impl Follower {
    /// The other's answer; `None` if there is none to share.
    pub(crate) async fn answer(mut self) -> Option<Response<Subscriber>> {
        loop {
            let call = Rc::clone(&self.call);
            let changed = call.changed.notified();
            match &*call.stage.borrow() {
                Stage::Under => {}
                Stage::Off => return None,
                Stage::Landed(head, stream) => {
                    self.there = false;
                    return Some(head.with(Subscriber::new(Rc::clone(stream), self.place)));
                }
            }
            changed.await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if !self.there {
            return;
        }
        self.call
            .joined
            .set(self.call.joined.get().saturating_sub(1));
        if let Some(place) = self.call.places.borrow_mut().get_mut(self.place) {
            *place = false;
        }
        if let Stage::Landed(_, stream) = &*self.call.stage.borrow() {
            stream.leave(self.place);
        }
    }
}

#[cfg(test)]
mod tests;
