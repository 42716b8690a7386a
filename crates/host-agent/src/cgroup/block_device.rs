//! Which disk a directory is on, as the kernel counts it.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{major, minor};

/// A whole disk, whose throughput can be limited: the kernel does not limit partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDevice(String);

impl BlockDevice {
    /// The disk under a directory. None where the file system is not on one alone: in memory, over others, on several
    /// disks or on another machine.
    pub fn under(directory: &Path) -> io::Result<Option<Self>> {
        let device = rustix::fs::stat(directory)?.st_dev;
        Self::whole(Path::new("/sys/dev/block"), &format!("{}:{}", major(device), minor(device)))
    }

    /// That of this number, as `major:minor`.
    #[cfg(test)]
    pub fn numbered(number: &str) -> Self {
        Self(number.to_owned())
    }

    fn whole(sys: &Path, number: &str) -> io::Result<Option<Self>> {
        let Ok(known) = fs::canonicalize(sys.join(number)) else { return Ok(None) };
        if !known.join("partition").exists() {
            return Ok(Some(Self(number.to_owned())));
        }
        let disk = known.parent().map(|disk| disk.join("dev"));
        let number = disk.map(fs::read_to_string).transpose()?;
        Ok(number.map(|number| Self(number.trim().to_owned())))
    }
}

impl fmt::Display for BlockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_s_disk_is_meant() {
        let sys = tempfile::tempdir().unwrap();
        let (disk, partition) = (sys.path().join("devices/sda"), sys.path().join("devices/sda/sda1"));
        fs::create_dir_all(&partition).unwrap();
        fs::write(disk.join("dev"), "8:0\n").unwrap();
        fs::write(partition.join("partition"), "1\n").unwrap();
        for (number, path) in [("8:0", &disk), ("8:1", &partition)] {
            std::os::unix::fs::symlink(path, sys.path().join(number)).unwrap();
        }
        let whole = |number| BlockDevice::whole(sys.path(), number).unwrap();
        let disk = BlockDevice("8:0".to_owned());
        assert_eq!((whole("8:0"), whole("8:1"), whole("0:40")), (Some(disk.clone()), Some(disk), None));
    }

    #[test]
    fn what_is_not_on_a_disk_is_told_from_what_is_not_there() {
        assert_eq!(BlockDevice::under(Path::new("/proc")).unwrap(), None);
        assert!(BlockDevice::under(Path::new("/no/such/directory")).is_err());
    }
}
