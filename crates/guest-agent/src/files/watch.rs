//! What happens in a directory, as the kernel tells it. Events wait in the kernel until they are asked for, so whoever
//! asks right after a change is told of it; the kernel bounds how many wait. In a tree somebody must gather them as they
//! come, since only then is a new directory followed.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

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

/// Changes that wait after they were gathered; further ones are lost, as beyond the kernel's own bound.
const WAITING: usize = 16384;

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
    inotify: Arc<OwnedFd>,
    user: User,
    wish: Wish,
    /// The directories by the kernel's number, each as a prefix of names in it.
    directories: HashMap<i32, String>,
    /// What was gathered and not taken.
    waiting: Vec<Change>,
    /// What was in new directories before they were followed, and may be told by the kernel once more.
    found: HashSet<String>,
}

/// Something of a watch to wait for, without it.
#[derive(Debug)]
pub struct Bell(Arc<OwnedFd>);

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
        let refused = |error| match error {
            Errno::MFILE | Errno::NFILE | Errno::NOSPC => FileError::TooManyWatches(path.clone()),
            other => system()(other),
        };
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(refused)?;
        let (inotify, (directories, waiting, found)) = (Arc::new(inotify), Default::default());
        let mut watch = Self { inotify, user, wish, directories, waiting, found };
        let user = watch.user.clone();
        let followed = with_rights_of(&user, || watch.follow(String::new(), &mut |_| {}));
        followed.and_then(|followed| followed).map_err(refused)?;
        Ok(watch)
    }

    /// Watches a directory, and those in it where all of them are wanted. Says what is in them already.
    fn follow(&mut self, prefix: String, found: &mut dyn FnMut(String)) -> Result<(), Errno> {
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
            for entry in fs::read_dir(self.path(&prefix)).into_iter().flatten().flatten() {
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    below.push(format!("{name}/"));
                }
                found(name);
            }
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
        self.gather();
        mem::take(&mut self.waiting)
    }

    /// Takes from the kernel what has happened, and keeps it.
    pub fn gather(&mut self) {
        let user = self.user.clone();
        // Without the user's rights nothing is seen of what happened.
        let _ = with_rights_of(&user, || self.drain());
    }

    /// Waits for what happens next, while others use the watch.
    pub fn bell(&self) -> Bell {
        Bell(self.inotify.clone())
    }

    fn drain(&mut self) {
        let names = (self.wish.entries == Entries::Describe).then(Names::read);
        let (inotify, mut buffer) = (self.inotify.clone(), [MaybeUninit::uninit(); BUFFER]);
        let mut reader = Reader::new(&*inotify, &mut buffer);
        let mut count = 0;
        // Where it goes on and on there is an end too.
        while count < WAITING || !reader.is_buffer_empty() {
            let Ok(event) = reader.next() else {
                // There is no more: also what the kernel had to tell once more is told.
                self.found.clear();
                return;
            };
            count += 1;
            match event.file_name() {
                Some(name) => self.change(event.wd(), event.events(), &name.to_string_lossy(), names.as_ref()),
                None if event.events().contains(ReadFlags::IGNORED) => drop(self.directories.remove(&event.wd())),
                None => {}
            }
        }
    }

    fn change(&mut self, number: i32, flags: ReadFlags, name: &str, names: Option<&Names>) {
        let (Some(prefix), Some(happened)) = (self.directories.get(&number), happened(flags)) else { return };
        let name = format!("{prefix}{name}");
        let was_found = self.found.remove(&name);
        if happened == Happened::Created && was_found {
            return;
        }
        let is_new_directory = happened == Happened::Created && flags.contains(ReadFlags::ISDIR);
        self.keep(name.clone(), happened, names);
        if is_new_directory && self.wish.depth == Depth::Tree {
            let mut found = Vec::new();
            // What was moved here together with its directory was made elsewhere.
            let is_news = flags.contains(ReadFlags::CREATE);
            // One that has vanished already has nothing to tell.
            let _ = self.follow(format!("{name}/"), &mut |name| found.extend(is_news.then_some(name)));
            for name in found {
                self.found.insert(name.clone());
                self.keep(name, Happened::Created, names);
            }
        }
    }

    fn keep(&mut self, name: String, happened: Happened, names: Option<&Names>) {
        let is_there = !matches!(happened, Happened::Removed | Happened::Renamed);
        let names = names.filter(|_| is_there);
        let entry = names.and_then(|names| entry::describe(&self.path(&name), names).ok());
        let is_full = self.waiting.len() >= WAITING;
        match self.waiting.last_mut() {
            // As the kernel does with what it keeps.
            Some(last) if last.name == name && last.happened == happened => last.entry = entry,
            _ if is_full => {}
            _ => self.waiting.push(Change { name, happened, entry }),
        }
    }
}

impl Bell {
    /// Waits until something has happened; false when `end` is closed on its other side.
    pub fn wait(&self, end: impl AsFd) -> bool {
        let mut both = [PollFd::new(&self.0, PollFlags::IN), PollFd::new(&end, PollFlags::IN)];
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
    fn what_is_in_a_new_directory_before_it_is_followed_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut deep = watch(directory.path(), Depth::Tree, Entries::Describe);
        fs::create_dir_all(directory.path().join("a/b")).unwrap();
        fs::write(directory.path().join("a/b/f"), "").unwrap();
        let expect = ["a", "a/b", "a/b/f"].map(|name| (name.to_owned(), Happened::Created));
        assert_eq!(told(&mut deep), expect);
        assert_eq!(told(&mut deep), []);
        fs::remove_file(directory.path().join("a/b/f")).unwrap();
        fs::rename(directory.path().join("a"), directory.path().join("c")).unwrap();
        let expect = [("a/b/f", Happened::Removed), ("a", Happened::Renamed), ("c", Happened::Created)];
        assert_eq!(told(&mut deep), expect.map(|(name, happened)| (name.to_owned(), happened)));
        fs::write(directory.path().join("c/b/g"), "").unwrap();
        assert_eq!(told(&mut deep)[0], ("c/b/g".to_owned(), Happened::Created));
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
        assert!(watch.bell().wait(&end));
        drop(other);
        assert!(!watch.bell().wait(&end));
    }
}
