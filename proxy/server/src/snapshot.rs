//! A configuration with everything made from it: certificates, keys, policy, metric handles. Swapped whole.

mod rules;

use std::num::NonZero;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use config::{Config, HardLimit, PolicyDocument};
use proxy_core::admission::limits::Limits;
use proxy_core::admission::{ClassSettings, Gate, LimitSettings, Mode, QueueSettings, Settings};
use proxy_core::classify::{ClassId, ClassSpec, Policy, PolicyError, default_classes};
use rustls::ServerConfig;

use crate::identify::request_header::RequestHeaderPeers;
use crate::identify::revoked::Revoked;
use crate::identify::tls::{self, MaterialError};
use crate::identify::token::TokenVerifier;
use crate::identify::verify::ClientAuthority;
use crate::metrics::{ClassMetrics, Metrics, RESERVED};
use crate::policy::trial::Trial;
use crate::reserved::ReservedAccess;
use crate::traces::collector::Collector;
use crate::upstream::connect::Endpoint;
use crate::upstream::headers::IdentityHeaders;
pub(crate) use rules::{compiles, policy};

/// Why a configuration that parsed cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file it names is missing or wrong.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// Its rules do not compile.
    #[error("rules: {0}")]
    Policy(#[from] PolicyError),
    /// Its limits do not compile.
    #[error("limits: {0}")]
    Limits(PolicyError),
    /// Its admission settings contradict each other.
    #[error("{0}")]
    Settings(#[from] proxy_core::admission::WrongSettings),
    /// A header name that is none.
    #[error("upstream.request_headers: not all of these are header names")]
    HeaderNames,
}

/// One class as the proxy needs it.
#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) name: Arc<str>,
    pub(crate) metrics: ClassMetrics,
}

/// What the configuration alone says: everything but the rules and limits that are in force.
pub(crate) struct Base {
    /// Rises with every reload; what was judged under another is judged again.
    pub(crate) generation: u64,
    pub(crate) config: Config,
    pub(crate) main_tls: Arc<ServerConfig>,
    pub(crate) reserved_tls: Arc<ServerConfig>,
    pub(crate) client_authority: ClientAuthority,
    pub(crate) break_glass_authority: Option<ClientAuthority>,
    /// Certificates of that authority that are refused.
    pub(crate) revoked: Revoked,
    pub(crate) request_header: Option<RequestHeaderPeers>,
    pub(crate) tokens: TokenVerifier,
    pub(crate) endpoint: Endpoint,
    pub(crate) identity_headers: IdentityHeaders,
    pub(crate) reserved: ReservedAccess,
    pub(crate) settings: Settings,
    /// Who takes spans; without, nothing is traced.
    pub(crate) traces: Option<Collector>,
    /// The policy's classes, and the reserved lane as the last.
    pub(crate) classes: Vec<Class>,
    /// (role, Unix seconds) of the certificates that end.
    pub(crate) expiries: Vec<(&'static str, u64)>,
}

/// See the module. It reads as its [`Base`] does.
pub(crate) struct Snapshot {
    base: Arc<Base>,
    pub(crate) policy: Policy,
    pub(crate) limits: Arc<Limits>,
    /// The limits as they are written, in their order.
    pub(crate) written_limits: Vec<HardLimit>,
    /// Another policy beside this one.
    pub(crate) trial: Option<Arc<Trial>>,
}

impl Deref for Snapshot {
    type Target = Base;

    fn deref(&self) -> &Base {
        &self.base
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Reads every file that `config` names and compiles its policy.
    ///
    /// # Errors
    /// [`SnapshotError`] about the first thing that cannot be used; nothing is changed then.
    pub(crate) fn load(
        config: Config,
        generation: u64,
        metrics: &Metrics,
    ) -> Result<Self, SnapshotError> {
        let base = Arc::new(Base::load(config, generation, metrics)?);
        Self::on(&base, &PolicyDocument::default(), None)
    }

    /// The configuration's rules and limits with those of a policy. What the limits of `before` have counted goes on
    /// counting. Reads no file.
    ///
    /// # Errors
    /// [`SnapshotError`] when they do not compile.
    pub(crate) fn on(
        base: &Arc<Base>,
        delivered: &PolicyDocument,
        before: Option<&Limits>,
    ) -> Result<Self, SnapshotError> {
        let policy = rules::policy_with(&base.config, &delivered.rules)?;
        let mut written_limits = base.config.admission.limits.clone();
        written_limits.extend(delivered.limits.iter().cloned());
        Ok(Self {
            base: Arc::clone(base),
            limits: Arc::new(rules::hard_limits(&written_limits, &policy, before)?),
            policy,
            written_limits,
            trial: None,
        })
    }

    /// What it shares with every other policy on this configuration.
    pub(crate) const fn base(&self) -> &Arc<Base> {
        &self.base
    }
}

impl Base {
    /// Reads every file that `config` names.
    ///
    /// # Errors
    /// [`SnapshotError`] about the first thing that cannot be used.
    pub(crate) fn load(
        config: Config,
        generation: u64,
        metrics: &Metrics,
    ) -> Result<Self, SnapshotError> {
        let client_authority = tls::client_authority(&config.tls.client_ca)?;
        let break_glass_authority = config
            .reserved
            .client_ca
            .as_deref()
            .map(tls::client_authority)
            .transpose()?;
        let (certificate, key) = (&config.tls.certificate, &config.tls.key);
        let others = [
            ("tls.client_ca", Some(&client_authority)),
            ("reserved.client_ca", break_glass_authority.as_ref()),
        ];
        let request_header = RequestHeaderPeers::load(&config.request_header, &others)?;
        let main_authorities: Vec<&ClientAuthority> = std::iter::once(&client_authority)
            .chain(request_header.as_ref().map(RequestHeaderPeers::authority))
            .collect();
        let main_tls = tls::server_config(certificate, key, &main_authorities)?;
        let reserved_authorities: Vec<&ClientAuthority> = std::iter::once(&client_authority)
            .chain(&break_glass_authority)
            .collect();
        let reserved_tls = tls::server_config(certificate, key, &reserved_authorities)?;
        let policy = policy(&config)?;
        let settings = settings(&config, &policy);
        settings.check()?;
        let names = policy
            .classes()
            .iter()
            .map(|class| &*class.name)
            .chain([RESERVED]);
        let classes = names
            .enumerate()
            .map(|(at, name)| Class {
                name: name.into(),
                metrics: ClassMetrics::new(metrics, at, name),
            })
            .collect();
        let mut expiries = vec![
            ("serving", tls::expiry(certificate)?),
            (
                "front-proxy",
                tls::expiry(&config.upstream.front_proxy.certificate)?,
            ),
            ("client-ca", tls::expiry(&config.tls.client_ca)?),
        ];
        if let Some(path) = &config.request_header.client_ca {
            expiries.push(("request-header-ca", tls::expiry(path)?));
        }
        Ok(Self {
            generation,
            main_tls,
            reserved_tls,
            client_authority,
            break_glass_authority,
            revoked: Revoked::load(config.reserved.revoked.as_deref())?,
            request_header,
            tokens: TokenVerifier::load(
                &config.service_accounts.keys,
                &config.service_accounts.issuers,
            )?,
            endpoint: Endpoint::load(&config.upstream)?,
            identity_headers: IdentityHeaders::new(
                &config.upstream.request_headers,
                &config.request_header,
            )
            .ok_or(SnapshotError::HeaderNames)?,
            reserved: ReservedAccess::new(&config.reserved),
            settings,
            traces: Collector::load(&config.traces)?,
            classes,
            expiries,
            config,
        })
    }
}

impl Snapshot {
    /// The files a configuration is made from, to be watched for changes.
    pub(crate) fn files(config: &Config) -> Vec<PathBuf> {
        let mut files = vec![
            config.tls.certificate.clone(),
            config.tls.key.clone(),
            config.tls.client_ca.clone(),
            config.upstream.ca.clone(),
            config.upstream.front_proxy.certificate.clone(),
            config.upstream.front_proxy.key.clone(),
        ];
        files.extend(config.service_accounts.keys.iter().cloned());
        files.extend(config.reserved.client_ca.clone());
        files.extend(config.reserved.revoked.clone());
        files.extend(config.request_header.client_ca.clone());
        files.extend(config.traces.ca.clone());
        files
    }

    /// The position of the reserved lane among [`Self::classes`].
    pub(crate) fn reserved_class(&self) -> usize {
        self.classes.len().saturating_sub(1)
    }

    /// A class; the last one for an id this policy does not have.
    #[allow(
        clippy::indexing_slicing,
        reason = "never empty: the reserved lane is always there, and the index is bounded"
    )]
    pub(crate) fn class(&self, class: ClassId) -> &Class {
        &self.classes[class.index().min(self.reserved_class().saturating_sub(1))]
    }
}

/// What admission is set to by a configuration.
pub(crate) fn settings(config: &Config, policy: &Policy) -> Settings {
    let admission = &config.admission;
    let defaults = Settings::default();
    let most_shed = share(admission.max_shed_share);
    let class = |(position, spec): (usize, &ClassSpec)| {
        let built_in = default_classes()
            .iter()
            .position(|class| class.name == spec.name);
        let usual = built_in
            .or(Some(position))
            .and_then(|at| defaults.classes.get(at));
        let mut class = usual
            .or_else(|| defaults.classes.last())
            .cloned()
            .unwrap_or(ClassSettings {
                reserve: 0.0,
                guarantee: 0.0,
                gate: Gate::Ceiling { own_whale: false },
                max_shed_share: 1.0,
            });
        if let Some(own) = admission
            .classes
            .iter()
            .find(|class| *class.name == *spec.name)
        {
            class.reserve = share(own.reserve);
            class.guarantee = share(own.guarantee);
            class.max_shed_share = share(own.max_shed_share);
        }
        class.max_shed_share = class.max_shed_share.min(most_shed);
        // Only the most important class may be beyond the ceilings, whatever it is called.
        if position > 0 && matches!(class.gate, Gate::HardBound(_)) {
            class.gate = Gate::Ceiling { own_whale: true };
        }
        class
    };
    Settings {
        mode: match admission.mode {
            config::Mode::Off => Mode::Off,
            config::Mode::Shadow => Mode::Shadow,
            config::Mode::Enforce => Mode::Enforce,
        },
        enforced_tenants: share(admission.enforced_tenants),
        limit: LimitSettings {
            initial: initial_limit(&admission.limit),
            min: admission.limit.min,
            max: admission.limit.max,
        },
        target: admission.probe.target,
        queue: QueueSettings {
            short_deadline: admission.queue.short_deadline,
            long_deadline: admission.queue.long_deadline,
            max_waiting: admission.queue.max_waiting as usize,
        },
        bytes: admission.bytes.get(),
        classes: policy.classes().iter().enumerate().map(class).collect(),
        ..defaults
    }
}

/// The server is on this host, so its cores are ours; fewer where Spillway's own are limited, from where the limit grows.
fn initial_limit(limit: &config::Limit) -> Duration {
    if !limit.initial.is_zero() {
        return limit.initial;
    }
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    LimitSettings::initial(u32::try_from(cores).unwrap_or(u32::MAX))
        .max(limit.min)
        .min(limit.max)
}

fn share(percent: config::Percent) -> f32 {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a share needs no more precision"
    )]
    let share = percent.fraction() as f32;
    share
}

#[cfg(test)]
mod cookbook;
#[cfg(test)]
mod red_button;
