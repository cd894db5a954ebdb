//! A model of kube-apiserver, small enough to embed and honest enough to
//! collapse.
//!
//! It speaks the real protocol (TLS, HTTP/2 and HTTP/1.1, kubeadm's PKI,
//! authentication as in Kubernetes, lists, watches, patches, tables, Status
//! errors), so that `kubectl` and client libraries work against it. What it
//! simulates is the machine: CPU time on a fixed number of cores, shared among
//! all that is runnable, and memory, which lists hold and which kills it.
//! Simulated CPU time passes on timers; the host's cores stay free for what is
//! being tested.
//!
//! What it is not: there is no RBAC (whoever is authenticated may do
//! everything; anonymous callers may read health, version and discovery), no
//! admission plugins or defaulting, no finalizers or grace periods, no
//! compression; of protobuf it reads what `kubectl` sends and writes none.
//!
//! ```no_run
//! use load_tests::apiserver::{Model, Options};
//! let model = Model::start(Options::new("/tmp/model")).unwrap();
//! model.seed("pods", &["a", "b"], 10_000, 3_000).unwrap();
//! println!("{} {:?}", model.server(), model.stats());
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

mod auth;
mod cli;
mod clock;
mod cost;
mod cpu;
mod discovery;
mod form;
mod handler;
mod list;
mod memory;
mod object;
mod patch;
mod pki;
mod process;
mod protobuf;
mod request;
mod resources;
mod respond;
mod review;
mod scheduler;
mod seats;
mod seed;
mod selector;
mod server;
mod stats;
mod status;
mod store;
#[cfg(test)]
mod store_tests;
mod tokens;
mod watch;
mod write;

pub use cli::{Cli, Objects, Size, run};
pub use cost::Costs;
pub use pki::Certified;
pub use stats::Stats;

/// Why the model could not be started or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the PKI or a kubeconfig.
    #[error("{0}: {1}; the directory must be writable, and files already in it whole")]
    File(PathBuf, #[source] std::io::Error),
    /// The port is taken, most likely.
    #[error("cannot listen on {0}: {1}; choose another port or 0")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// A certificate or key in the PKI directory is not what it should be.
    #[error("cannot make or read certificates: {0}; remove the pki directory to have it made anew")]
    Certificates(#[from] rcgen::Error),
    /// `sa.key` is no RSA key that signs.
    #[error("cannot sign tokens with sa.key: {0}")]
    TokenKey(String),
    /// TLS cannot be set up with the PKI.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// A thread or its runtime could not be started.
    #[error("cannot start the model's thread: {0}")]
    Thread(#[source] std::io::Error),
    /// Not a resource the model serves, or one without objects.
    #[error("the model does not store {0:?}; name a resource in the plural, such as pods")]
    Resource(String),
    /// The API refused.
    #[error("the model refused: {0}")]
    Refused(String),
}

impl Error {
    fn file(path: &Path, error: std::io::Error) -> Self {
        Self::File(path.to_owned(), error)
    }
}

impl From<rustls::Error> for Error {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error.to_string())
    }
}

impl From<status::ApiError> for Error {
    fn from(error: status::ApiError) -> Self {
        Self::Refused(error.to_string())
    }
}

/// How the model is built.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the PKI (`pki/`) and the kubeconfigs go.
    pub dir: PathBuf,
    /// Port on 127.0.0.1; 0 takes a free one, kept across its restarts.
    pub port: u16,
    /// Simulated cores, at least 1.
    pub cores: usize,
    /// Simulated bytes above which it is killed.
    pub memory_limit: u64,
    /// Simulated bytes resident without any request and object.
    pub base_memory: u64,
    /// Bytes a list holds per byte it encodes.
    pub memory_factor: f64,
    /// How long freed bytes stay resident.
    pub memory_linger: Duration,
    /// How long it is down once killed.
    pub down: Duration,
    /// How long work of vanished clients keeps running.
    pub cancel_lag: Duration,
    /// Seats of the stand-in for Priority and Fairness
    /// (`--max-requests-inflight` + `--max-mutating-requests-inflight`).
    pub seats: usize,
    /// Deadline of requests that are not watches; a quarter of it is the
    /// longest wait for a seat.
    pub request_timeout: Duration,
    /// Time between bookmarks of a watch.
    pub bookmark_every: Duration,
    /// Events remembered per resource.
    pub history: usize,
    /// Connections accepted at a time; further ones wait.
    pub max_connections: usize,
    /// What requests cost.
    pub costs: Costs,
}

impl Options {
    /// The defaults: one core, 2 GiB, 600 seats, a free port.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            port: 0,
            cores: 1,
            memory_limit: 2 << 30,
            base_memory: 270 << 20,
            memory_factor: 3.0,
            memory_linger: Duration::from_secs(2),
            down: Duration::from_secs(5),
            cancel_lag: Duration::from_millis(50),
            seats: 600,
            request_timeout: Duration::from_secs(60),
            bookmark_every: Duration::from_secs(60),
            history: 10_000,
            max_connections: 20_000,
            costs: Costs::default(),
        }
    }
}

/// The model apiserver.
#[derive(Debug)]
pub struct Model;

impl Model {
    /// Starts a model on a thread of its own; it serves when this returns.
    ///
    /// # Errors
    /// When the directory, the port, the certificates or the thread cannot be
    /// had.
    pub fn start(options: Options) -> Result<Running, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let pki = pki::Pki::open(&options.dir)?;
        let tokens = tokens::Tokens::new(&pki.token_key)?;
        let auth =
            auth::Authenticator::new(&provider, &pki.client_ca, &pki.front_proxy_ca, tokens)?;
        let tls = Arc::new(server::tls(&provider, &pki)?);
        let store = Arc::new(store::Store::new(options.history));
        for namespace in ["default", "kube-node-lease", "kube-public", "kube-system"] {
            seed::namespace_exists(&store, namespace)?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Thread)?;
        let (listener, address) = {
            let _entered = runtime.enter();
            let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
            let listener = server::listen(wanted)?;
            let address = listener
                .local_addr()
                .map_err(|error| Error::Listen(wanted, error))?;
            (listener, address)
        };
        let server = format!("https://{address}");
        pki.write_kubeconfigs(&server)?;
        let shared = Arc::new(process::Shared {
            costs: Arc::new(options.costs.clone()),
            store,
            auth,
            counters: Arc::default(),
            process: Mutex::new(None),
            options,
        });
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("model-apiserver".to_owned())
            .spawn({
                let shared = shared.clone();
                move || runtime.block_on(server::serve(shared, tls, listener, address, stopped))
            })
            .map_err(Error::Thread)?;
        Ok(Running {
            shared,
            pki,
            server,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

/// A model that runs until it is dropped.
pub struct Running {
    shared: Arc<process::Shared>,
    pki: pki::Pki,
    server: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("server", &self.server)
            .field("dir", &self.dir())
            .finish_non_exhaustive()
    }
}

impl Running {
    /// `https://127.0.0.1:PORT`.
    pub fn server(&self) -> String {
        self.server.clone()
    }

    /// Where `admin.conf` and the other kubeconfigs are.
    pub fn dir(&self) -> &Path {
        &self.shared.options.dir
    }

    /// Where the PKI is, laid out as `/etc/kubernetes/pki`.
    pub fn pki_dir(&self) -> PathBuf {
        self.dir().join("pki")
    }

    /// Adds `count` objects of about `bytes` each, named `<singular>-<i>` and
    /// spread over `namespaces`, which are made where missing; none means
    /// `default`. Pods are on nodes `node-<i>`.
    ///
    /// # Errors
    /// For resources that are not stored and for names that are taken.
    pub fn seed(
        &self,
        resource: &str,
        namespaces: &[&str],
        count: usize,
        bytes: usize,
    ) -> Result<(), Error> {
        let found = resources::by_plural(resource)
            .filter(|resource| !resource.virtual_only)
            .ok_or_else(|| Error::Resource(resource.to_owned()))?;
        Ok(seed::seed(
            &self.shared.store,
            found,
            namespaces,
            count,
            bytes,
        )?)
    }

    /// A client certificate of the cluster for a user and at most two groups.
    ///
    /// # Errors
    /// When the name cannot be put into a certificate.
    pub fn client_certificate(&self, user: &str, groups: &[&str]) -> Result<Certified, Error> {
        self.pki.client(user, groups)
    }

    /// A token of a service account, which is made where missing, valid for
    /// an hour.
    ///
    /// # Errors
    /// When the names are refused.
    pub fn token(&self, namespace: &str, account: &str) -> Result<String, Error> {
        let store = &self.shared.store;
        seed::namespace_exists(store, namespace)?;
        let target = request::Target {
            namespace: Some(namespace.to_owned()),
            name: Some(account.to_owned()),
            ..request::Target::default()
        };
        let write = write::Write {
            store,
            resource: resources::by_plural("serviceaccounts")
                .ok_or_else(|| Error::Resource("serviceaccounts".to_owned()))?,
            target: &target,
            query: &request::Query::default(),
        };
        let body = serde_json::json!({"metadata": {"name": account}}).to_string();
        match write.create(body.as_bytes()) {
            Err(error) if error.reason != "AlreadyExists" => return Err(error.into()),
            _ => {}
        }
        let answer = review::token_request(&target, &self.shared.auth, store, b"{\"spec\":{}}")?;
        Ok(answer["status"]["token"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }

    /// What it did and does.
    pub fn stats(&self) -> Stats {
        let mut stats = self.shared.counters.read();
        if let Some(process) = lock(&self.shared.process).as_ref() {
            let (memory, peak) = process.memory.usage();
            stats.cpu += process.cpu.used();
            stats.memory = memory;
            stats.memory_peak = stats.memory_peak.max(peak);
            stats.runnable = process.cpu.runnable();
        }
        stats
    }

    /// Stops it: connections are cut. Dropping does the same.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have ended by itself.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Locks; a panic elsewhere does not make the data unusable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
