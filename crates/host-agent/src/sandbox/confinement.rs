//! What jail and fence cost the start of a sandbox: the times that its way to running stood still for them.

use std::time::Duration;

/// Times that a sandbox was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Confinement {
    /// For its jail, at most: with what starting any process takes.
    pub jail: Duration,
    /// For its network: namespace, links and rules.
    pub fence: Duration,
}
