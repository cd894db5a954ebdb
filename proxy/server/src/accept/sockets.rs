//! Listening sockets: given by whoever started us, or bound here.
//!
//! A socket that outlives the process loses no connection when the process is replaced: what the kernel has accepted waits
//! in the socket's queue. So systemd (socket activation) or a running predecessor ([`super::handover`]) may give us theirs.
//! Which lane a given socket serves follows from its own address and the configuration, never from its position or its
//! name: a mistake there could put the admin side or the reserved lane on the wrong port.

use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Connections the kernel may hold for us.
const BACKLOG: i32 = 4096;

/// An address that could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({what}): {source}")]
pub struct BindError {
    /// Which address.
    pub address: SocketAddr,
    /// What it was for.
    pub what: &'static str,
    /// What the system said.
    pub source: std::io::Error,
}

/// Listening sockets that exist already, not yet claimed.
#[derive(Debug, Default)]
pub struct Given(Vec<TcpListener>);

impl Given {
    /// Those of systemd's protocol (sd_listen_fds(3)): `LISTEN_FDS` descriptors from 3 on, if `LISTEN_PID` is this process
    /// or not set. Takes the variables out of the environment, so call it before there are other threads, and once.
    ///
    /// # Errors
    /// When a descriptor is not a listening TCP socket.
    pub fn from_environment() -> std::io::Result<Self> {
        let mut descriptors = listenfd::ListenFd::from_env();
        let mut given = Self::default();
        for index in 0..descriptors.len() {
            let listener = descriptors.take_tcp_listener(index)?;
            given.extend(listener)?;
        }
        Ok(given)
    }

    /// Adds sockets.
    ///
    /// # Errors
    /// When one is not a listening TCP socket.
    pub fn extend(
        &mut self,
        listeners: impl IntoIterator<Item = TcpListener>,
    ) -> std::io::Result<()> {
        for listener in listeners {
            let socket = SockRef::from(&listener);
            if !socket.is_listener()? || socket.r#type()? != Type::STREAM {
                return Err(std::io::Error::new(
                    std::io::ErrorKind::InvalidInput,
                    "a socket that was passed to this process does not listen",
                ));
            }
            listener.set_nonblocking(true)?;
            self.0.push(listener);
        }
        Ok(())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one at `address`, or a new one bound there for `what` (named in the error).
    ///
    /// # Errors
    /// [`BindError`], for instance when something else listens there.
    pub(crate) fn listen(
        &mut self,
        address: SocketAddr,
        what: &'static str,
    ) -> Result<TcpListener, BindError> {
        let here = |listener: &TcpListener| listener.local_addr().is_ok_and(|own| own == address);
        match self.0.iter().position(here) {
            Some(index) => Ok(self.0.swap_remove(index)),
            None => bind(address).map_err(|source| BindError {
                address,
                what,
                source,
            }),
        }
    }

    /// The addresses of those nobody asked for.
    pub(crate) fn unclaimed(&self) -> Vec<SocketAddr> {
        self.0
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        (listener, address)
    }

    #[test]
    fn a_given_socket_serves_the_address_it_is_bound_to_whatever_its_position() {
        let ((one, first), (other, second)) = (listener(), listener());
        let mut given = Given::default();
        given.extend([one, other]).expect("listeners");
        // Bound and listening: a second bind there would fail.
        let claimed = given.listen(second, "listen.main").expect("given");
        assert_eq!(claimed.local_addr().expect("an address"), second);
        assert_eq!(given.unclaimed(), [first]);
        let bound = given.listen(SocketAddr::from(([127, 0, 0, 1], 0)), "listen.admin");
        assert!(bound.is_ok());
        assert_eq!(given.unclaimed(), [first]);
    }

    #[test]
    fn a_socket_that_does_not_listen_is_refused() {
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let refused = Given::default().extend([TcpListener::from(bound)]);
        assert!(refused.is_err());
    }
}
