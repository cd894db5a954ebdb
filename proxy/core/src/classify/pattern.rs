//! The patterns rules are made of, compiled.

use std::net::IpAddr;

/// A set of names: exact ones and prefixes, including and excluding.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    include: Set,
    exclude: Set,
}

#[derive(Clone, Debug, Default)]
struct Set {
    /// Sorted, for binary search.
    exact: Box<[Box<str>]>,
    prefixes: Box<[Box<str>]>,
}

impl Names {
    /// Compiles entries; the error is the entry with a `*` before its end.
    pub(super) fn compile(entries: &[String]) -> Result<Self, &str> {
        let (exclude, include): (Vec<&str>, Vec<&str>) = entries
            .iter()
            .map(String::as_str)
            .partition(|entry| entry.starts_with('!'));
        Ok(Self {
            include: Set::compile(include.into_iter())?,
            exclude: Set::compile(exclude.into_iter().map(bare))?,
        })
    }

    /// Whether the condition is there at all.
    pub(super) fn is_empty(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// Whether it names anything but "all", so that matching it says *who*.
    pub(super) fn singles_out(&self) -> bool {
        !self.include.is_empty() && !self.include.prefixes.iter().any(|prefix| prefix.is_empty())
    }

    /// Whether one value satisfies the condition.
    pub(super) fn matches(&self, value: &str) -> bool {
        self.matches_any(std::iter::once(value))
    }

    /// Whether several values together satisfy it: none is excluded, one is
    /// included if inclusion is asked for.
    pub(super) fn matches_any<'v>(&self, values: impl Iterator<Item = &'v str> + Clone) -> bool {
        !values.clone().any(|value| self.exclude.holds(value))
            && (self.include.is_empty() || { values }.any(|value| self.include.holds(value)))
    }

    /// The result for something that has no such value.
    pub(super) fn matches_absent(&self) -> bool {
        self.include.is_empty()
    }

    /// Every included entry, prefixes without their star.
    pub(super) fn included(&self) -> impl Iterator<Item = &str> {
        self.include
            .exact
            .iter()
            .chain(&self.include.prefixes)
            .map(|entry| &**entry)
    }
}

impl Set {
    fn compile<'e>(entries: impl Iterator<Item = &'e str>) -> Result<Self, &'e str> {
        let mut exact: Vec<Box<str>> = Vec::new();
        let mut prefixes: Vec<Box<str>> = Vec::new();
        for entry in entries {
            let (text, list) = match entry.strip_suffix('*') {
                Some(prefix) => (prefix, &mut prefixes),
                None => (entry, &mut exact),
            };
            if text.contains('*') {
                return Err(entry);
            }
            list.push(text.into());
        }
        exact.sort_unstable();
        Ok(Self {
            exact: exact.into(),
            prefixes: prefixes.into(),
        })
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty()
    }

    fn holds(&self, value: &str) -> bool {
        self.prefixes
            .iter()
            .any(|prefix| value.starts_with(&**prefix))
            || self
                .exact
                .binary_search_by(|entry| (**entry).cmp(value))
                .is_ok()
    }
}

/// An entry without its excluding mark.
pub(super) fn bare(entry: &str) -> &str {
    entry.strip_prefix('!').unwrap_or(entry)
}

/// A small set of values that are counted from zero, as bits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bits {
    include: u32,
    exclude: u32,
}

impl Bits {
    /// Compiles entries through `index`; the error is the entry it does not know.
    pub(super) fn compile(
        entries: &[String],
        index: impl Fn(&str) -> Option<usize>,
    ) -> Result<Self, &str> {
        let mut bits = Self::default();
        for entry in entries {
            let at = index(bare(entry)).filter(|at| *at < 32);
            let bit = 1 << at.ok_or(entry.as_str())?;
            if entry.starts_with('!') {
                bits.exclude |= bit;
            } else {
                bits.include |= bit;
            }
        }
        Ok(bits)
    }

    pub(super) const fn is_empty(self) -> bool {
        self.include == 0 && self.exclude == 0
    }

    /// Whether something that has the properties of `mask` satisfies the set.
    pub(super) const fn matches(self, mask: u32) -> bool {
        mask & self.exclude == 0 && (self.include == 0 || mask & self.include != 0)
    }
}

/// `pods`, `pods/status`, `pods/*`, `*/scale`, `*`.
#[derive(Clone, Debug, Default)]
pub(super) struct Resources {
    include: Box<[Resource]>,
    exclude: Box<[Resource]>,
}

#[derive(Clone, Debug)]
struct Resource {
    resource: Option<Box<str>>,
    /// `None` is any, the empty one among them.
    subresource: Option<Box<str>>,
    /// Demands that there is a subresource (`pods/*`).
    below: bool,
}

impl Resources {
    /// Compiles entries; the error is the entry that makes no sense.
    pub(super) fn compile(entries: &[String]) -> Result<Self, &str> {
        let mut include = Vec::new();
        let mut exclude = Vec::new();
        for entry in entries {
            let resource = Resource::compile(bare(entry)).ok_or(entry.as_str())?;
            if entry.starts_with('!') {
                exclude.push(resource);
            } else {
                include.push(resource);
            }
        }
        Ok(Self {
            include: include.into(),
            exclude: exclude.into(),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    pub(super) fn matches(&self, resource: &str, subresource: &str) -> bool {
        let fits = |pattern: &Resource| pattern.matches(resource, subresource);
        !self.exclude.iter().any(fits) && (self.include.is_empty() || self.include.iter().any(fits))
    }
}

impl Resource {
    fn compile(entry: &str) -> Option<Self> {
        let name = |text: &str| (text != "*").then(|| Box::<str>::from(text));
        let sound = |text: &str| !text.is_empty() && (text == "*" || !text.contains(['*', '/']));
        match entry.split_once('/') {
            Some((resource, subresource)) => {
                (sound(resource) && sound(subresource)).then(|| Self {
                    resource: name(resource),
                    subresource: name(subresource),
                    below: true,
                })
            }
            None if entry == "*" => Some(Self {
                resource: None,
                subresource: None,
                below: false,
            }),
            None => sound(entry).then(|| Self {
                resource: name(entry),
                subresource: Some("".into()),
                below: false,
            }),
        }
    }

    fn matches(&self, resource: &str, subresource: &str) -> bool {
        self.resource.as_deref().is_none_or(|name| name == resource)
            && self
                .subresource
                .as_deref()
                .is_none_or(|name| name == subresource)
            && !(self.below && subresource.is_empty())
    }
}

/// Networks, including and excluding.
#[derive(Clone, Debug, Default)]
pub(super) struct Networks {
    include: Box<[Network]>,
    exclude: Box<[Network]>,
}

/// A network: the leading `length` bits of `bits` count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    /// IPv4 stands as IPv4-mapped IPv6, so that both notations of a peer match.
    bits: u128,
    length: u32,
}

impl Networks {
    /// Compiles entries; the error is the entry that is no network.
    pub(super) fn compile(entries: &[String]) -> Result<Self, &str> {
        let mut include = Vec::new();
        let mut exclude = Vec::new();
        for entry in entries {
            let network = Network::parse(bare(entry)).ok_or(entry.as_str())?;
            if entry.starts_with('!') {
                exclude.push(network);
            } else {
                include.push(network);
            }
        }
        Ok(Self {
            include: include.into(),
            exclude: exclude.into(),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// Whether it names anything but everywhere.
    pub(super) fn singles_out(&self) -> bool {
        // A /0 of IPv4 stands as a /96 here.
        let everywhere = |network: &Network| match network.bits >> 32 == 0xffff {
            true => network.length <= 96,
            false => network.length == 0,
        };
        !self.include.is_empty() && !self.include.iter().any(everywhere)
    }

    pub(super) fn matches(&self, address: IpAddr) -> bool {
        let bits = mapped(address);
        let holds = |network: &Network| network.holds(bits);
        !self.exclude.iter().any(holds)
            && (self.include.is_empty() || self.include.iter().any(holds))
    }
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(width);
        (length <= width).then(|| Self {
            bits: mapped(address),
            length: 128 - width + length,
        })
    }

    fn holds(self, bits: u128) -> bool {
        let ignored = 128 - self.length;
        (bits ^ self.bits).checked_shr(ignored).unwrap_or(0) == 0
    }
}

fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(of: &[&str]) -> Vec<String> {
        of.iter().map(|entry| (*entry).to_owned()).collect()
    }

    #[test]
    fn exclusions_beat_inclusions() {
        let of = entries(&["system:*", "jane", "!system:node:*", "!system:x"]);
        let names = Names::compile(&of).unwrap();
        for (name, expected) in [
            ("system:y", true),
            ("jane", true),
            ("janet", false),
            ("system:x", false),
            ("system:node:a", false),
            ("joe", false),
        ] {
            assert_eq!(names.matches(name), expected, "{name}");
        }
        let of = entries(&["!a"]);
        let only_not = Names::compile(&of).unwrap();
        assert!(only_not.matches("b") && !only_not.matches("a"));
        assert!(!only_not.matches_any(["a", "b"].into_iter()));
        assert_eq!(Names::compile(&entries(&["a*b"])).unwrap_err(), "a*b");
    }

    #[test]
    fn a_plain_resource_does_not_mean_its_subresources() {
        let matches = |pattern: &str, resource, subresource| {
            let of = entries(&[pattern]);
            Resources::compile(&of)
                .unwrap()
                .matches(resource, subresource)
        };
        assert!(matches("pods", "pods", ""));
        assert!(!matches("pods", "pods", "log"));
        assert!(matches("pods/*", "pods", "log"));
        assert!(!matches("pods/*", "pods", ""));
        assert!(matches("*/scale", "deployments", "scale"));
        assert!(!matches("*/scale", "deployments", ""));
        assert!(matches("*", "pods", "log"));
        assert!(!matches("!pods/log", "pods", "log"));
        assert!(matches("!pods/log", "pods", ""));
        for wrong in ["", "/", "pods/", "/log", "po*", "a/b/c"] {
            assert!(Resources::compile(&entries(&[wrong])).is_err(), "{wrong}");
        }
    }

    #[test]
    fn networks_match_both_notations_of_an_address() {
        let of = entries(&["10.1.0.0/16", "!10.1.9.0/24", "fd00::/8"]);
        let networks = Networks::compile(&of).unwrap();
        for (address, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("10.1.9.3", false),
            ("10.2.0.1", false),
            ("fd12::1", true),
            ("fe80::1", false),
        ] {
            assert_eq!(
                networks.matches(address.parse().unwrap()),
                expected,
                "{address}"
            );
        }
        let of = entries(&["0.0.0.0/0"]);
        let everywhere = Networks::compile(&of).unwrap();
        assert!(everywhere.matches("1.2.3.4".parse().unwrap()));
        assert!(!everywhere.matches("fd00::1".parse().unwrap()));
        assert!(!everywhere.singles_out());
        assert!(
            !Networks::compile(&entries(&["::/0"]))
                .unwrap()
                .singles_out()
        );
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "a", "1.2.3.4/"] {
            assert!(Networks::compile(&entries(&[wrong])).is_err(), "{wrong}");
        }
    }
}
