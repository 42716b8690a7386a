//! What programs take for the name of this installation: one for each sandbox, the same whenever it goes on.

use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::identity;

const PATH: &str = "/etc/machine-id";

/// Writes the machine id of a sandbox.
pub fn assume(sandbox_id: &str) -> io::Result<()> {
    identity::put(Path::new(PATH), &format!("{}\n", of(sandbox_id)))
}

fn of(sandbox_id: &str) -> String {
    let digest = Sha256::digest(format!("machine-id of {sandbox_id}").as_bytes());
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn each_sandbox_has_its_own_of_the_form_that_programs_expect() {
        let id = of("sb1");
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        assert_eq!(of("sb1"), id);
        assert_ne!(of("sb2"), id);
    }
}
