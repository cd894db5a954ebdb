//! The lanes: listeners with their own threads, upstream connections and bounds.

/// Which way a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Everybody's way to the API.
    Main,
    /// The operators' way in the worst hour: authenticated, bounded, audited.
    Reserved,
}

impl Lane {
    /// All lanes, in the order of their index.
    pub(crate) const ALL: [Self; 2] = [Self::Main, Self::Reserved];

    /// The name in metrics and logs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Reserved => "reserved",
        }
    }

    /// Position in [`Lane::ALL`].
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Main => 0,
            Self::Reserved => 1,
        }
    }
}
