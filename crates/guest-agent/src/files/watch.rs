//! What happens in a directory, as the kernel tells it. Events wait in the kernel until they are asked for, so whoever
//! asks right after a change is told of it; the kernel bounds how many wait.

use std::collections::HashMap;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::statfs;
use rustix::io::Errno;

use super::entry::{self, Entry};
use super::error::FileError;
use super::rights::with_rights_of;
use crate::users::{Names, User};

/// Room for what is read at once.
const BUFFER: usize = 16 << 10;

/// Directories that one watch follows at most.
const DIRECTORIES: usize = 8192;

/// File systems whose other users' changes the kernel does not see: NFS, SMB, CIFS, SMB 2, FUSE.
const NETWORK: [u32; 5] = [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546];

/// What is watched.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The directory.
    pub path: String,
    /// Whether also what is below its directories.
    pub depth: Depth,
    /// Whether what an event is about is looked at.
    pub entries: Entries,
    /// Whether it may be on another machine's disk.
    pub network: Network,
}

/// How far down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The directory's own content.
    Directory,
    /// Everything below it.
    Tree,
}

/// What comes with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entries {
    /// Nothing.
    Leave,
    /// What there is to say about what changed, where that is still there.
    Describe,
}

/// What to do about a network mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Do not watch it.
    Refuse,
    /// Watch it for what it is worth.
    Allow,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It is there now.
    Created,
    /// Its content is another.
    Written,
    /// It is gone.
    Removed,
    /// It is called otherwise, or elsewhere.
    Renamed,
    /// Its attributes are others.
    Changed,
}

/// Something that happened to a name in a watched directory.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Relative to the watched directory.
    pub name: String,
    /// What.
    pub happened: Happened,
    /// What is there now.
    pub entry: Option<Entry>,
}

/// A watched directory.
#[derive(Debug)]
pub struct Watch {
    inotify: OwnedFd,
    user: User,
    wish: Wish,
    /// The directories by the kernel's number, each as a prefix of names in it.
    directories: HashMap<i32, String>,
}

impl Watch {
    /// Begins to watch. What happens from now on is told.
    pub fn new(user: User, wish: Wish) -> Result<Self, FileError> {
        let path = wish.path.clone();
        let system = || FileError::on::<Errno>("watch", &path);
        let found = with_rights_of(&user, || fs::metadata(&path)).map_err(system())?;
        if !found.map_err(FileError::on("watch", &path))?.is_dir() {
            return Err(FileError::NotADirectory(path));
        }
        let kind = statfs(&*path).map_err(system())?.f_type;
        if wish.network == Network::Refuse && NETWORK.iter().any(|network| i128::from(kind) == i128::from(*network)) {
            return Err(FileError::NetworkMount(path));
        }
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(system())?;
        let mut watch = Self { inotify, user, wish, directories: HashMap::new() };
        let user = watch.user.clone();
        with_rights_of(&user, || watch.follow(String::new())).and_then(|followed| followed).map_err(system())?;
        Ok(watch)
    }

    /// Watches a directory, and those in it where all of them are wanted.
    fn follow(&mut self, prefix: String) -> Result<(), Errno> {
        let mut below = vec![prefix];
        let mut is_first = true;
        while let Some(prefix) = below.pop() {
            match self.follow_one(&prefix) {
                Err(error) if is_first => return Err(error),
                // It has vanished, or the user may not look at it.
                Err(_) => continue,
                Ok(()) => is_first = false,
            }
            if self.wish.depth == Depth::Directory {
                break;
            }
            let entries = fs::read_dir(self.path(&prefix)).into_iter().flatten().flatten();
            let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            below.extend(directories.map(|entry| format!("{prefix}{}/", entry.file_name().to_string_lossy())));
        }
        Ok(())
    }

    fn follow_one(&mut self, prefix: &str) -> Result<(), Errno> {
        if self.directories.len() >= DIRECTORIES {
            return Err(Errno::NOSPC);
        }
        let events = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        let number = inotify::add_watch(&self.inotify, self.path(prefix), events)?;
        self.directories.insert(number, prefix.to_owned());
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.wish.path.trim_end_matches('/'))
    }

    /// What has happened since the last time.
    pub fn take(&mut self) -> Vec<Change> {
        let user = self.user.clone();
        // Without the user's rights nothing is seen of what happened.
        with_rights_of(&user, || self.drain()).unwrap_or_default()
    }

    fn drain(&mut self) -> Vec<Change> {
        let mut told = Vec::new();
        {
            let mut buffer = [MaybeUninit::uninit(); BUFFER];
            let mut reader = Reader::new(&self.inotify, &mut buffer);
            // An error means that there is no more.
            while let Ok(event) = reader.next() {
                let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
                told.push((event.wd(), event.events(), name));
            }
        }
        let names = (self.wish.entries == Entries::Describe).then(Names::read);
        told.into_iter().filter_map(|(number, flags, name)| self.change(number, flags, name?, names.as_ref())).collect()
    }

    fn change(&mut self, number: i32, flags: ReadFlags, name: String, names: Option<&Names>) -> Option<Change> {
        let name = format!("{}{name}", self.directories.get(&number)?);
        let happened = happened(flags)?;
        let is_new_directory = happened == Happened::Created && flags.contains(ReadFlags::ISDIR);
        if is_new_directory && self.wish.depth == Depth::Tree {
            // One that has vanished already has nothing to tell.
            let _ = self.follow(format!("{name}/"));
        }
        let is_there = !matches!(happened, Happened::Removed | Happened::Renamed);
        let names = names.filter(|_| is_there);
        let entry = names.and_then(|names| entry::describe(&self.path(&name), names).ok());
        Some(Change { name, happened, entry })
    }

    /// Waits until something has happened; false when `end` is closed on its other side.
    pub fn wait(&self, end: impl AsFd) -> bool {
        let mut both = [PollFd::new(&self.inotify, PollFlags::IN), PollFd::new(&end, PollFlags::IN)];
        loop {
            match poll(&mut both, None) {
                Err(Errno::INTR) => {}
                Err(_) => return false,
                Ok(_) => return both[1].revents().is_empty(),
            }
        }
    }
}

fn happened(flags: ReadFlags) -> Option<Happened> {
    let kinds = [
        (ReadFlags::CREATE | ReadFlags::MOVED_TO, Happened::Created),
        (ReadFlags::MODIFY, Happened::Written),
        (ReadFlags::DELETE, Happened::Removed),
        (ReadFlags::MOVED_FROM, Happened::Renamed),
        (ReadFlags::ATTRIB, Happened::Changed),
    ];
    kinds.into_iter().find(|(kind, _)| flags.intersects(*kind)).map(|(_, happened)| happened)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;

    fn root() -> User {
        crate::users::lookup("root").unwrap()
    }

    fn watch(path: &std::path::Path, depth: Depth, entries: Entries) -> Watch {
        let path = path.to_str().unwrap().to_owned();
        Watch::new(root(), Wish { path, depth, entries, network: Network::Refuse }).unwrap()
    }

    fn told(watch: &mut Watch) -> Vec<(String, Happened)> {
        watch.take().into_iter().map(|change| (change.name, change.happened)).collect()
    }

    #[test]
    fn an_upload_is_told_as_create_attributes_and_write() {
        let directory = tempfile::tempdir().unwrap();
        let mut watch = watch(directory.path(), Depth::Directory, Entries::Describe);
        let path = directory.path().join("f");
        let mut file = files::create(&root(), path.to_str().unwrap(), &Default::default()).unwrap();
        std::io::Write::write_all(&mut file, b"abc").unwrap();
        let changes = watch.take();
        let happened: Vec<_> = changes.iter().map(|change| change.happened).collect();
        assert_eq!(happened, [Happened::Created, Happened::Changed, Happened::Written]);
        assert!(changes.iter().all(|change| change.name == "f" && change.entry.as_ref().unwrap().size == 3));
        assert_eq!(watch.take(), []);
        fs::rename(&path, directory.path().join("g")).unwrap();
        fs::remove_file(directory.path().join("g")).unwrap();
        let expect = [("f", Happened::Renamed), ("g", Happened::Created), ("g", Happened::Removed)];
        assert_eq!(told(&mut watch), expect.map(|(name, happened)| (name.to_owned(), happened)));
    }

    #[test]
    fn a_tree_is_followed_into_old_and_new_directories() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("old")).unwrap();
        let mut deep = watch(directory.path(), Depth::Tree, Entries::Leave);
        let mut flat = watch(directory.path(), Depth::Directory, Entries::Leave);
        fs::create_dir(directory.path().join("new")).unwrap();
        assert_eq!(told(&mut deep), [("new".to_owned(), Happened::Created)]);
        for name in ["old/a", "new/b"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let names: Vec<_> = told(&mut deep).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["old/a", "new/b"]);
        let flat: Vec<_> = told(&mut flat).into_iter().filter(|(_, what)| *what == Happened::Created).collect();
        assert_eq!(flat, [("new".to_owned(), Happened::Created)]);
    }

    #[test]
    fn only_a_directory_that_is_there_is_watched() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        fs::write(&file, "").unwrap();
        let attempt = |path: &std::path::Path| {
            let path = path.to_str().unwrap().to_owned();
            let (depth, entries, network) = (Depth::Directory, Entries::Leave, Network::Refuse);
            Watch::new(root(), Wish { path, depth, entries, network }).map(drop)
        };
        assert!(matches!(attempt(&file), Err(FileError::NotADirectory(_))));
        assert!(matches!(attempt(&directory.path().join("gone")), Err(FileError::NotFound(_))));
    }

    #[test]
    fn waiting_ends_with_an_event_or_with_whoever_waits() {
        let directory = tempfile::tempdir().unwrap();
        let watch = watch(directory.path(), Depth::Directory, Entries::Leave);
        let (end, other) = rustix::pipe::pipe().unwrap();
        fs::write(directory.path().join("f"), "").unwrap();
        assert!(watch.wait(&end));
        drop(other);
        assert!(!watch.wait(&end));
    }
}
