//! QEMU's command line for a virtual machine.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde_json::json;

use super::bundle::{Bundle, FIRMWARE_DIRECTORY, INITRAMFS, KERNEL, MEMORY};
use crate::{Accelerator, Bind, BindAccess, Device, Machine, Memory, Program};

/// All that goes into the command line.
pub(super) struct CommandLine<'a> {
    pub bundle: &'a Bundle,
    pub accelerator: Accelerator,
    pub tsc_khz: u64,
    pub machine: Machine,
    pub start: Start,
    /// A bound and listening socket.
    pub qmp: OwnedFd,
    /// A bound and listening socket.
    pub console: OwnedFd,
    pub stderr: OwnedFd,
}

/// How a virtual machine begins.
#[derive(Debug)]
pub(super) enum Start {
    /// From nothing.
    Boot { kernel: PathBuf, initramfs: PathBuf },
    /// From a state that is loaded later, out of this file.
    Incoming(OwnedFd),
}

/// The kind of machine, as snapshots name it.
pub(super) const MACHINE: &str = "microvm";

/// What makes a saved state one that can be loaded: no description of itself at its end, which nothing would read.
const SAVED_AS: &str = "suppress-vmdesc=on,memory-backend=memory";

/// The set of descriptors that holds the state to be loaded.
pub(super) const STATE_SET: i32 = 3;

/// The first set of descriptors that holds a frozen overlay.
pub(super) const FIRST_LAYER_SET: i32 = 10;

/// The node of the template's image.
pub(super) const BASE_NODE: &str = "base";

/// The node of the overlay.
pub(super) const OVERLAY_NODE: &str = "disk";

/// The node over the overlay that keeps the guest to its limits. What QEMU itself does to the overlay goes past it.
const LIMITED_NODE: &str = "limited";

/// What holds these limits.
const LIMITS: &str = "disk-limits";

/// MiB of translated code. Half of it doubles the start of Python in the guest; the default costs 20 to 40 MB more.
const TRANSLATION_BUFFER_MB: u32 = 64;

/// The descriptors in the order in which the program inherits them; after these come those of frozen overlays, and
/// last the state.
#[derive(Clone, Copy)]
enum Descriptor {
    Qmp,
    Console,
    Base,
    Overlay,
    Tap,
    FirstLayer,
}

impl Descriptor {
    fn number(self) -> i32 {
        Program::FIRST_DESCRIPTOR + self as i32
    }
}

/// The nodes of a frozen overlay and of its file.
pub(super) fn layer_nodes(layer: i32) -> (String, String) {
    (format!("layer{layer}"), format!("layer{layer}-file"))
}

/// What processors guests see.
pub(super) fn cpu(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "host",
        Accelerator::Tcg => "max",
    }
}

impl CommandLine<'_> {
    pub fn into_program(self) -> Program {
        let arguments = self.arguments();
        let read_only =
            |host: PathBuf, inside: &str| Bind { host, inside: inside.into(), access: BindAccess::ReadOnly };
        let mut binds = vec![match self.machine.memory {
            Memory::Own(host) => Bind { host, inside: MEMORY.into(), access: BindAccess::Writable },
            Memory::Frozen(host) => read_only(host, MEMORY),
        }];
        let mut descriptors =
            vec![self.qmp, self.console, self.machine.base_image, self.machine.overlay, self.machine.tap];
        descriptors.extend(self.machine.layers);
        match self.start {
            Start::Boot { kernel, initramfs } => {
                binds.extend([read_only(kernel, KERNEL), read_only(initramfs, INITRAMFS)]);
            }
            Start::Incoming(state) => descriptors.push(state),
        }
        Program {
            root: self.bundle.root().to_owned(),
            path: self.bundle.program().to_owned(),
            arguments,
            binds,
            devices: match self.accelerator {
                Accelerator::Kvm => vec![Device::Kvm],
                Accelerator::Tcg => vec![],
            },
            descriptors,
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
        let shape = self.machine.shape;
        let mut options = vec![
            ("nodefaults", String::new()),
            ("no-user-config", String::new()),
            ("display", "none".into()),
            ("L", FIRMWARE_DIRECTORY.into()),
            // A guest that reboots or panics ends its monitor.
            ("no-reboot", String::new()),
            ("sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into()),
            // Devices are found by ACPI: the kernel has no command-line discovery for virtio-mmio.
            ("machine", format!("{MACHINE},acpi=on,pit=off,pic=off,rtc=on,isa-serial=on,pcie=off,usb=off,{SAVED_AS}")),
            ("global", "migration.send-configuration=off".into()),
            // Nobody learns from a guest where it is: its link has one other end. Announcing it again and again costs a
            // system that goes on as much as its first command.
            ("global", "migration.announce-rounds=0".into()),
            ("accel", self.accel()),
            ("cpu", cpu(self.accelerator).into()),
            ("smp", format!("cpus={}", shape.vcpus)),
            ("m", format!("{}M", shape.memory)),
            ("object", self.memory()),
            // Stopped until the console is connected, so that its first words are heard.
            ("S", String::new()),
        ];
        options.extend(self.start());
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

    /// A frozen file is opened for reading only and mapped privately: the monitor could not change it if it would.
    fn memory(&self) -> String {
        let access = match self.machine.memory {
            Memory::Own(_) => "share=on",
            Memory::Frozen(_) => "share=off,readonly=on,rom=off",
        };
        format!("memory-backend-file,id=memory,size={}M,mem-path={MEMORY},{access}", self.machine.shape.memory)
    }

    /// A guest that goes on has its kernel in memory and needs no file of it.
    fn start(&self) -> Vec<(&'static str, String)> {
        match &self.start {
            Start::Boot { .. } => {
                vec![("kernel", KERNEL.into()), ("initrd", INITRAMFS.into()), ("append", self.kernel_command_line())]
            }
            Start::Incoming(_) => {
                let number = Descriptor::FirstLayer.number() + self.layer_count();
                vec![("incoming", "defer".into()), ("add-fd", format!("fd={number},set={STATE_SET}"))]
            }
        }
    }

    fn layer_count(&self) -> i32 {
        i32::try_from(self.machine.layers.len()).unwrap_or(i32::MAX)
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
        let mut options = vec![
            ("add-fd", format!("fd={},set=1", Descriptor::Base.number())),
            ("add-fd", format!("fd={},set=2", Descriptor::Overlay.number())),
            ("blockdev", file(1, "base-file", "read-only=on")),
            ("blockdev", format!("driver=raw,node-name={BASE_NODE},file=base-file,read-only=on")),
        ];
        let mut below = BASE_NODE.to_owned();
        for layer in 0..self.layer_count() {
            let (number, set) = (Descriptor::FirstLayer.number() + layer, FIRST_LAYER_SET + layer);
            let (name, name_of_file) = layer_nodes(layer);
            options.push(("add-fd", format!("fd={number},set={set}")));
            options.push(("blockdev", file(set, &name_of_file, "read-only=on")));
            let overlay = format!("driver=qcow2,node-name={name},file={name_of_file},backing={below},read-only=on");
            options.push(("blockdev", overlay));
            below = name;
        }
        let overlay = format!("driver=qcow2,node-name={OVERLAY_NODE},file=overlay-file,backing={below},discard=unmap");
        let limited = format!(
            "driver=throttle,node-name={LIMITED_NODE},throttle-group={LIMITS},file={OVERLAY_NODE},discard=unmap"
        );
        options.extend([
            ("blockdev", file(2, "overlay-file", "read-only=off,discard=unmap")),
            ("blockdev", overlay),
            ("object", self.disk_limits()),
            ("blockdev", limited),
            ("device", format!("virtio-blk-device,drive={LIMITED_NODE}")),
        ]);
        options
    }

    fn disk_limits(&self) -> String {
        let limits = self.machine.disk_limits;
        let limits = json!({ "bps-total": limits.bytes_per_second(), "iops-total": limits.operations_per_second });
        // Only in this form are its limits a part of QEMU's stable interface.
        json!({ "qom-type": "throttle-group", "id": LIMITS, "limits": limits }).to_string()
    }

    fn network(&self) -> Vec<(&'static str, String)> {
        let mac = self.machine.mac.map(|byte| format!("{byte:02x}")).join(":");
        vec![
            ("netdev", format!("tap,id=net,fd={}", Descriptor::Tap.number())),
            ("device", format!("virtio-net-device,netdev=net,mac={mac}")),
        ]
    }
}
