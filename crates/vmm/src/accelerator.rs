//! What guests execute on: hardware virtualisation where it is real, else QEMU's own translation.

use std::fmt;
use std::fs::OpenOptions;
use std::str::FromStr;

/// What a guest executes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accelerator {
    /// The processor's virtualisation, through `/dev/kvm`.
    Kvm,
    /// QEMU's translator. Its bugs are not treated as security bugs by its project: the jail is the boundary then.
    Tcg,
}

/// What the operator asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AcceleratorMode {
    /// KVM where it works, else TCG.
    #[default]
    Auto,
    /// KVM, or fail.
    Kvm,
    /// TCG.
    Tcg,
}

/// The accelerator to begin with, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceleratorChoice {
    /// What to begin with.
    pub accelerator: Accelerator,
    /// Whether a boot that fails may fall back to TCG.
    pub may_fall_back: bool,
    /// One line for the log.
    pub reason: String,
}

/// KVM was demanded and cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("KVM was asked for but cannot be used: {0}; use --accel auto or --accel tcg")]
pub struct ForcedKvmUnusable(String);

/// Decides from what the machine offers (see [`kvm_obstacle`]).
///
/// A `/dev/kvm` that opens is not KVM that works: some hosts expose a software KVM on which stock guests hang. So the
/// processor must have `vmx` or `svm` too, and even then only a guest that answered is proof.
pub fn choose(mode: AcceleratorMode, obstacle: Option<String>) -> Result<AcceleratorChoice, ForcedKvmUnusable> {
    let tcg = |reason| AcceleratorChoice { accelerator: Accelerator::Tcg, may_fall_back: false, reason };
    let kvm = |may_fall_back, reason: &str| AcceleratorChoice {
        accelerator: Accelerator::Kvm,
        may_fall_back,
        reason: reason.to_owned(),
    };
    match (mode, obstacle) {
        (AcceleratorMode::Tcg, _) => Ok(tcg("TCG was asked for".to_owned())),
        (AcceleratorMode::Auto, Some(obstacle)) => Ok(tcg(format!("no usable KVM: {obstacle}"))),
        (AcceleratorMode::Auto, None) => Ok(kvm(true, "/dev/kvm opens and the processor has virtualisation")),
        (AcceleratorMode::Kvm, None) => Ok(kvm(false, "KVM was asked for")),
        (AcceleratorMode::Kvm, Some(obstacle)) => Err(ForcedKvmUnusable(obstacle)),
    }
}

/// What stands between this machine and KVM, if anything.
pub fn kvm_obstacle() -> Option<String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Some(format!("/dev/kvm cannot be opened ({error})"));
    }
    (!has_virtualisation(&cpuinfo))
        .then(|| "/dev/kvm opens, but the processor shows neither vmx nor svm, so it is not hardware KVM".to_owned())
}

/// The model and features of the host's processor, which guests see under hardware virtualisation.
pub(crate) fn processor() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| cpuinfo.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    [field("model name"), field("flags")].join("\n")
}

fn has_virtualisation(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_whitespace)
        .any(|flag| flag == "vmx" || flag == "svm")
}

impl Accelerator {
    /// As QEMU and our API name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for AcceleratorMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            other => Err(format!("{other:?} is not one of auto, kvm, tcg")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_kvm_only_without_an_obstacle_and_may_then_fall_back() {
        let free = choose(AcceleratorMode::Auto, None).unwrap();
        assert_eq!((free.accelerator, free.may_fall_back), (Accelerator::Kvm, true));
        let blocked = choose(AcceleratorMode::Auto, Some("no vmx".into())).unwrap();
        assert_eq!((blocked.accelerator, blocked.may_fall_back), (Accelerator::Tcg, false));
        assert!(blocked.reason.contains("no vmx"));
    }

    #[test]
    fn kvm_by_force_fails_instead_of_falling_back() {
        assert!(choose(AcceleratorMode::Kvm, Some("no vmx".into())).unwrap_err().to_string().contains("no vmx"));
        assert!(!choose(AcceleratorMode::Kvm, None).unwrap().may_fall_back);
    }

    #[test]
    fn virtualisation_is_a_whole_flag() {
        assert!(has_virtualisation("model name : x\nflags\t\t: fpu vmx sse\n"));
        assert!(has_virtualisation("flags : svm"));
        assert!(!has_virtualisation("flags : fpu avx512_vmxx\nbugs : vmx\n"));
    }
}
