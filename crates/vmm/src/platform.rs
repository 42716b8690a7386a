//! What a saved virtual machine depends on beyond its own files. Loading it on anything else is refused, because the
//! result would be a guest that fails later and elsewhere.

use serde::{Deserialize, Serialize};

/// How much two measurements of the same counter may differ, in parts in a million. A measurement is right to about
/// ten; a guest's clock would go wrong by as much as its rate is.
const TSC_TOLERANCE_PPM: u64 = 100;

/// On what a virtual machine runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// The monitor's name and version.
    pub vmm: String,
    /// The digest of the monitor with its libraries and firmware.
    pub bundle: String,
    /// The kind of machine.
    pub machine: String,
    /// The model of its processors.
    pub cpu: String,
    /// What they execute on.
    pub accelerator: String,
    /// The processor of the host where guests see it (under hardware virtualisation), else empty.
    pub host_cpu: String,
    /// The rate of the host's time stamp counter, which guests were told.
    pub tsc_khz: u64,
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it was saved with {what} {saved:?} and this host has {here:?}")]
pub struct PlatformMismatch {
    what: &'static str,
    saved: String,
    here: String,
}

impl Platform {
    /// Whether a state that was saved on `self` can be loaded on `here`. The monitor itself is not compared: the very
    /// same one is taken.
    pub fn check(&self, here: &Self) -> Result<(), PlatformMismatch> {
        let pairs = [
            ("machine type", &self.machine, &here.machine),
            ("CPU model", &self.cpu, &here.cpu),
            ("accelerator", &self.accelerator, &here.accelerator),
            ("processor", &self.host_cpu, &here.host_cpu),
        ];
        for (what, saved, here) in pairs {
            if saved != here {
                return Err(PlatformMismatch { what, saved: saved.clone(), here: here.clone() });
            }
        }
        if self.tsc_khz.abs_diff(here.tsc_khz) * 1_000_000 > here.tsc_khz * TSC_TOLERANCE_PPM {
            let (saved, here) = (format!("{} kHz", self.tsc_khz), format!("{} kHz", here.tsc_khz));
            return Err(PlatformMismatch { what: "time stamp counter", saved, here });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform() -> Platform {
        Platform {
            vmm: "QEMU 10.0.2".into(),
            bundle: "ab".into(),
            machine: "microvm".into(),
            cpu: "max".into(),
            accelerator: "tcg".into(),
            host_cpu: String::new(),
            tsc_khz: 2_000_000,
        }
    }

    #[test]
    fn what_a_guest_depends_on_must_be_the_same() {
        let check = |change: fn(&mut Platform), word: Option<&str>| {
            let mut saved = platform();
            change(&mut saved);
            match (saved.check(&platform()), word) {
                (Ok(()), None) => {}
                (Err(error), Some(word)) => assert!(error.to_string().contains(word), "{error}"),
                (result, word) => panic!("{result:?}, expected {word:?}"),
            }
        };
        check(|_| {}, None);
        check(|saved| saved.accelerator = "kvm".into(), Some("accelerator"));
        check(|saved| saved.cpu = "host".into(), Some("CPU model"));
        check(|saved| saved.machine = "q35".into(), Some("machine type"));
        check(|saved| saved.host_cpu = "other".into(), Some("processor"));
        check(|saved| saved.tsc_khz += 100, None);
        check(|saved| saved.tsc_khz += 1000, Some("2001000 kHz"));
    }
}
