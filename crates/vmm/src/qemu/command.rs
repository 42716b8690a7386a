//! QEMU's command line for a virtual machine.

use std::ffi::OsString;
use std::os::fd::OwnedFd;

use super::bundle::{Bundle, FIRMWARE_DIRECTORY, INITRAMFS, KERNEL};
use crate::{Accelerator, Bind, BootSpec, Device, Program};

/// All that goes into the command line.
pub(super) struct CommandLine<'a> {
    pub bundle: &'a Bundle,
    pub accelerator: Accelerator,
    pub tsc_khz: u64,
    pub spec: BootSpec,
    /// A bound and listening socket.
    pub qmp: OwnedFd,
    /// A bound and listening socket.
    pub console: OwnedFd,
    pub stderr: OwnedFd,
}

/// MiB of translated code. Half of it doubles the start of Python in the guest; the default costs 20 to 40 MB more.
const TRANSLATION_BUFFER_MB: u32 = 64;

/// The descriptors in the order in which the program inherits them.
#[derive(Clone, Copy)]
enum Descriptor {
    Qmp,
    Console,
    Base,
    Overlay,
    Tap,
}

impl Descriptor {
    fn number(self) -> i32 {
        Program::FIRST_DESCRIPTOR + self as i32
    }
}

impl CommandLine<'_> {
    pub fn into_program(self) -> Program {
        let arguments = self.arguments();
        let bind = |host: &std::path::Path, inside: &str| Bind { host: host.to_owned(), inside: inside.into() };
        Program {
            root: self.bundle.root().to_owned(),
            path: self.bundle.program().to_owned(),
            arguments,
            binds: vec![bind(&self.spec.kernel, KERNEL), bind(&self.spec.initramfs, INITRAMFS)],
            devices: match self.accelerator {
                Accelerator::Kvm => vec![Device::Kvm],
                Accelerator::Tcg => vec![],
            },
            descriptors: vec![self.qmp, self.console, self.spec.base_image, self.spec.overlay, self.spec.tap],
            stderr: self.stderr,
        }
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        for (option, value) in self.options() {
            arguments.push(OsString::from(format!("-{option}")));
            if !value.is_empty() {
                arguments.push(OsString::from(value));
            }
        }
        arguments
    }

    fn options(&self) -> Vec<(&'static str, String)> {
        let shape = self.spec.shape;
        let mut options = vec![
            ("nodefaults", String::new()),
            ("no-user-config", String::new()),
            ("display", "none".into()),
            ("L", FIRMWARE_DIRECTORY.into()),
            // A guest that reboots or panics ends its monitor.
            ("no-reboot", String::new()),
            ("sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into()),
            // Devices are found by ACPI: the kernel has no command-line discovery for virtio-mmio.
            ("machine", "microvm,acpi=on,pit=off,pic=off,rtc=on,isa-serial=on,pcie=off,usb=off".into()),
            ("accel", self.accel()),
            ("cpu", self.cpu().into()),
            ("smp", format!("cpus={}", shape.vcpus)),
            ("m", format!("{}M", shape.memory)),
            ("kernel", KERNEL.into()),
            ("initrd", INITRAMFS.into()),
            ("append", self.kernel_command_line()),
            // Stopped until the console is connected, so that its first words are heard.
            ("S", String::new()),
        ];
        options.extend(self.sockets());
        options.extend(self.disk());
        options.extend(self.network());
        options.push(("device", "virtio-rng-device".into()));
        options
    }

    fn accel(&self) -> String {
        match self.accelerator {
            Accelerator::Kvm => "kvm".into(),
            Accelerator::Tcg => format!("tcg,tb-size={TRANSLATION_BUFFER_MB},thread=multi"),
        }
    }

    fn cpu(&self) -> &'static str {
        match self.accelerator {
            Accelerator::Kvm => "host",
            Accelerator::Tcg => "max",
        }
    }

    fn kernel_command_line(&self) -> String {
        let mut line = "console=ttyS0 quiet loglevel=3 panic=-1 reboot=t random.trust_cpu=on ipv6.disable=1".to_owned();
        if self.accelerator == Accelerator::Tcg {
            // Without the first, calibration fails in one boot of four on a busy host, and the guest hangs silently;
            // without the second, several vCPUs fall back to jiffies.
            line += &format!(" tsc_early_khz={} tsc=reliable", self.tsc_khz);
        }
        line
    }

    fn sockets(&self) -> Vec<(&'static str, String)> {
        let socket =
            |id: &str, descriptor: Descriptor| format!("socket,id={id},fd={},server=on,wait=off", descriptor.number());
        vec![
            ("chardev", socket("qmp", Descriptor::Qmp)),
            ("mon", "chardev=qmp,mode=control".into()),
            ("chardev", socket("console", Descriptor::Console)),
            ("serial", "chardev:console".into()),
        ]
    }

    /// Formats and the backing file are given here and never taken from a header that a guest could have written.
    fn disk(&self) -> Vec<(&'static str, String)> {
        let file = |set: i32, node: &str, access: &str| {
            format!("driver=file,filename=/dev/fdset/{set},node-name={node},locking=off,{access}")
        };
        vec![
            ("add-fd", format!("fd={},set=1", Descriptor::Base.number())),
            ("add-fd", format!("fd={},set=2", Descriptor::Overlay.number())),
            ("blockdev", file(1, "base-file", "read-only=on")),
            ("blockdev", "driver=raw,node-name=base,file=base-file,read-only=on".into()),
            ("blockdev", file(2, "overlay-file", "read-only=off,discard=unmap")),
            ("blockdev", "driver=qcow2,node-name=disk,file=overlay-file,backing=base,discard=unmap".into()),
            ("device", "virtio-blk-device,drive=disk".into()),
        ]
    }

    fn network(&self) -> Vec<(&'static str, String)> {
        let mac = self.spec.mac.map(|byte| format!("{byte:02x}")).join(":");
        vec![
            ("netdev", format!("tap,id=net,fd={}", Descriptor::Tap.number())),
            ("device", format!("virtio-net-device,netdev=net,mac={mac}")),
        ]
    }
}
