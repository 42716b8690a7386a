//! What guests would execute on: KVM or emulation, and which QEMU.

use std::fs::{self, OpenOptions};
use std::str::FromStr;

use vmm::{Accelerator, AcceleratorMode};

use super::check::Check;
use super::program::{Failure, ask, first_line};

const QEMU: &str = "qemu-system-x86_64";

/// Below this a jailed QEMU cannot map a template's memory read-only.
const REQUIRED: Version = Version { major: 8, minor: 2 };
/// From here on processes start several times quicker in a guest without KVM.
const PREFERRED: Version = Version { major: 10, minor: 0 };

/// Of QEMU; the patch level changes nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    minor: u32,
}

/// Whether `/dev/kvm` opens as a virtual machine monitor would open it.
pub fn kvm_device() -> Check {
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Check::ok("/dev/kvm", "opens for reading and writing"),
        Err(error) => Check::warning(
            "/dev/kvm",
            error.to_string(),
            "for hardware virtualisation, load the module kvm_intel or kvm_amd; in a container, pass the device in; \
             in a virtual machine, switch nested virtualisation on",
        ),
    }
}

/// Whether the processor shows hardware virtualisation.
pub fn processor() -> Check {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    match virtualisation_flag(&cpuinfo) {
        Some(flag) => Check::ok("processor", format!("has {flag}")),
        None => Check::warning(
            "processor",
            "shows neither vmx nor svm",
            "switch virtualisation on in the machine's firmware, or nested virtualisation in its hypervisor",
        ),
    }
}

/// What a server on this machine would choose, and what that means.
pub fn accelerator() -> Check {
    match vmm::choose(AcceleratorMode::Auto, vmm::kvm_obstacle()) {
        Ok(choice) if choice.accelerator == Accelerator::Kvm => {
            Check::ok("accelerator", format!("kvm, if the first guest boots on it: {}", choice.reason))
        }
        Ok(choice) => Check::warning(
            "accelerator",
            format!("{}: {}", choice.accelerator, choice.reason),
            "sandboxes run, but slower, and the security boundary is then the jail around QEMU and not the virtual \
             machine: QEMU's project does not treat bugs of its emulation as security bugs",
        ),
        Err(error) => Check::missing("accelerator", error.to_string(), "use --accel auto"),
    }
}

/// Whether there is a QEMU, and one that is new enough.
pub async fn qemu() -> Check {
    let install = "run `make setup`: it takes a current QEMU from the release or its backports (packages \
                   qemu-system-x86 and qemu-utils)";
    match ask(QEMU, &["--version"]).await {
        Ok(text) => judge(&text, install),
        Err(Failure::Absent) => Check::missing("qemu", format!("{QEMU} is not installed"), install),
        Err(Failure::Failed(why)) => Check::missing("qemu", why, install),
    }
}

fn judge(text: &str, install: &str) -> Check {
    let found = first_line(text);
    match text.parse::<Version>() {
        Err(()) => Check::missing("qemu", found, format!("its version is not understood; {install}")),
        Ok(version) if version < REQUIRED => Check::missing(
            "qemu",
            found,
            format!("before 8.2 it cannot give a jailed guest private memory over a read-only file; {install}"),
        ),
        Ok(version) if version < PREFERRED => Check::warning(
            "qemu",
            found,
            format!("before 10 processes start four times slower in guests without KVM; {install}"),
        ),
        Ok(_) => Check::ok("qemu", found),
    }
}

fn virtualisation_flag(cpuinfo: &str) -> Option<&'static str> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    ["vmx", "svm"].into_iter().find(|wanted| flags.split_whitespace().any(|flag| flag == *wanted))
}

/// From the text that QEMU prints for `--version`.
impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (_, rest) = text.split_once("version ").ok_or(())?;
        let number = rest.split(|end: char| end != '.' && !end.is_ascii_digit()).next().ok_or(())?;
        let mut parts = number.split('.').map(|part| part.parse().map_err(|_| ()));
        Ok(Self { major: parts.next().ok_or(())??, minor: parts.next().ok_or(())?? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::check::Level;

    #[test]
    fn versions_are_read_from_what_distributions_print() {
        for (text, major, minor) in [
            ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2~bpo12+1)\nCopyright (c) …", 10, 0),
            ("QEMU emulator version 7.2.17 (Debian 1:7.2+dfsg-7+deb12u13)", 7, 2),
            ("QEMU emulator version 8.2.0", 8, 2),
            ("QEMU emulator version 9.0rc1", 9, 0),
        ] {
            assert_eq!(text.parse(), Ok(Version { major, minor }), "{text}");
        }
        for text in ["", "QEMU", "QEMU emulator version", "version ten", "version 8"] {
            assert!(text.parse::<Version>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_old_qemu_is_missing_a_middling_one_a_warning() {
        let level = |version: &str| judge(&format!("QEMU emulator version {version}"), "install").level;
        assert_eq!(level("7.2.17"), Level::Missing);
        assert_eq!(level("8.1.9"), Level::Missing);
        assert_eq!(level("8.2.0"), Level::Warning);
        assert_eq!(level("9.2.4"), Level::Warning);
        assert_eq!(level("10.0.2"), Level::Ok);
        assert_eq!(judge("nonsense", "install").level, Level::Missing);
    }

    #[test]
    fn only_whole_flags_count() {
        assert_eq!(virtualisation_flag("flags : fpu svm\n"), Some("svm"));
        assert_eq!(virtualisation_flag("flags : vmx2\nbugs : vmx\n"), None);
    }
}
