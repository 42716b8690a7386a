//! Who speaks to whom between machines, as certificates name it.

/// What a certificate makes its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// May tell host agents what to do.
    ControlPlane,
    /// Runs sandboxes for control planes.
    HostAgent,
}

impl Role {
    /// What names of roles end with. `.internal` is reserved for private use: no such name leads anywhere.
    pub const DOMAIN: &str = "role.sandpiper.internal";

    /// Its name, as in subcommands and file names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::HostAgent => "host-agent",
        }
    }

    /// The DNS name that certificates of this role hold beside names of their own. Both sides ask for it: that a
    /// certificate comes from the right authority does not make its holder a control plane.
    pub fn certificate_name(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane.role.sandpiper.internal",
            Self::HostAgent => "host-agent.role.sandpiper.internal",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_a_certificate_is_the_role_in_the_domain_of_roles() {
        for role in [Role::ControlPlane, Role::HostAgent] {
            assert_eq!(role.certificate_name(), format!("{}.{}", role.as_str(), Role::DOMAIN));
        }
    }
}
