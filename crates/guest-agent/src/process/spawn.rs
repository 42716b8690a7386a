//! Starts one program, quickly: the child borrows the agent's memory until it has become the program (`vfork`), so
//! that no page table is copied. Knows nothing of requests, users' names or pipes' other ends.
//!
//! What the child does between `clone` and `execve` is restricted to system calls on data that was prepared before:
//! it shares memory with the agent's other threads, so it must neither allocate nor take a lock.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::OnceLock;

use rustix::process::Pid;

/// Room for the child's few frames until it has its own memory.
const STACK_SIZE: usize = 64 * 1024;
/// User processes are killed for memory before the agent, which is at -1000.
const OOM_SCORE_ADJ: &[u8] = b"100";

/// A program that is ready to be started.
pub struct Program<'a> {
    /// What to call it in messages.
    pub name: CString,
    /// Files to try, in this order; the first that can be executed is.
    pub candidates: Vec<CString>,
    /// Arguments, the zeroth included.
    pub argv: Vec<CString>,
    /// The environment as `NAME=value`.
    pub envp: Vec<CString>,
    /// Working directory, entered with the rights of the user.
    pub cwd: CString,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The child's descriptors 0, 1 and 2.
    pub stdio: [BorrowedFd<'a>; 3],
    /// What its session is attached to.
    pub session: Session,
}

/// What a session is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// Nothing.
    Plain,
    /// Standard input is a terminal, which becomes the session's own: keys send signals, and its end hangs up.
    OnTerminal,
}

/// Why no process was made.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The system made no process.
    #[error("create a process")]
    Clone(#[source] io::Error),
    /// The working directory cannot be entered.
    #[error("enter the working directory")]
    WorkingDirectory(#[source] io::Error),
    /// The terminal did not become the process's own.
    #[error("take on the terminal")]
    Terminal(#[source] io::Error),
    /// The process could not become the user's.
    #[error("take on the user's identity")]
    Identity(#[source] io::Error),
}

/// What the child tells its parent when it gives up before the program.
#[derive(Clone, Copy, Default)]
enum Failure {
    #[default]
    None,
    WorkingDirectory(c_int),
    Terminal(c_int),
    Identity(c_int),
}

/// All that the child reads, in the form in which the kernel takes it.
struct Child {
    name: *const c_char,
    candidates: Vec<*const c_char>,
    argv: Vec<*const c_char>,
    /// `/bin/sh FILE ARGS…`, for a script that names no interpreter; the second is filled in by the child.
    shell_argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    cwd: *const c_char,
    uid: u32,
    gid: u32,
    groups: *const u32,
    group_count: usize,
    stdio: [c_int; 3],
    session: Session,
    ignored: &'static [c_int],
    failure: Failure,
}

/// A process that was made.
#[derive(Debug)]
pub struct Spawned {
    /// Its number.
    pub pid: Pid,
    /// Readable when it has ended.
    pub ended: OwnedFd,
}

/// Starts `program` as the leader of a session of its own. A program that is missing or cannot be executed is a
/// process too: it says so on its standard error and ends with 127 or 126, as under a shell.
pub fn spawn(program: &Program<'_>) -> Result<Spawned, SpawnError> {
    let mut child = Child::new(program);
    let mut stack = Vec::<u128>::with_capacity(STACK_SIZE / size_of::<u128>());
    // SAFETY: the pointer is one past the end of the allocation, which is where a stack that grows down begins.
    let top = unsafe { stack.as_mut_ptr().add(STACK_SIZE / size_of::<u128>()) };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let blocked = BlockedSignals::new();
    let mut ended: c_int = -1;
    // SAFETY: CLONE_VFORK suspends this thread until the child has called execve or _exit, so `child` and `stack`
    // outlive its use of them; no handler of ours can run in the child because all signals are blocked. The kernel writes
    // one descriptor to `ended`.
    let pid =
        unsafe { libc::clone(run, top.cast(), flags, ptr::from_mut(&mut child).cast(), ptr::from_mut(&mut ended)) };
    let error = io::Error::last_os_error();
    drop(blocked);
    let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else { return Err(SpawnError::Clone(error)) };
    // SAFETY: a process was made, so this is its descriptor, new and nobody else's.
    let ended = unsafe { OwnedFd::from_raw_fd(ended) };
    // SAFETY: `child` is a live local; volatile because the compiler does not know of its other writer.
    match unsafe { ptr::read_volatile(&child.failure) } {
        Failure::None => Ok(Spawned { pid, ended }),
        Failure::WorkingDirectory(errno) => Err(SpawnError::WorkingDirectory(io::Error::from_raw_os_error(errno))),
        Failure::Terminal(errno) => Err(SpawnError::Terminal(io::Error::from_raw_os_error(errno))),
        Failure::Identity(errno) => Err(SpawnError::Identity(io::Error::from_raw_os_error(errno))),
    }
}

impl Child {
    fn new(program: &Program<'_>) -> Self {
        let mut shell_argv = vec![c"sh".as_ptr(), ptr::null()];
        shell_argv.extend(program.argv.iter().skip(1).map(|arg| arg.as_ptr()));
        shell_argv.push(ptr::null());
        Self {
            name: program.name.as_ptr(),
            candidates: program.candidates.iter().map(|path| path.as_ptr()).collect(),
            argv: null_terminated(&program.argv),
            shell_argv,
            envp: null_terminated(&program.envp),
            cwd: program.cwd.as_ptr(),
            uid: program.uid,
            gid: program.gid,
            groups: program.groups.as_ptr(),
            group_count: program.groups.len(),
            stdio: program.stdio.map(|fd| fd.as_raw_fd()),
            session: program.session,
            ignored: ignored_signals(),
            failure: Failure::None,
        }
    }
}

fn null_terminated(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

extern "C" fn run(child: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes its `Child`, which it does not touch before this process has gone on.
    let child = unsafe { &mut *child.cast::<Child>() };
    // SAFETY: only system calls on memory that `child` keeps alive, in a process with one thread.
    unsafe {
        libc::setsid();
        for (target, fd) in child.stdio.iter().enumerate() {
            libc::dup2(*fd, target as c_int);
        }
        if child.session == Session::OnTerminal && libc::ioctl(0, libc::TIOCSCTTY, 0) != 0 {
            child.failure = Failure::Terminal(errno());
            libc::_exit(127);
        }
        libc::syscall(libc::SYS_close_range, 3, c_int::MAX, libc::CLOSE_RANGE_CLOEXEC);
        for signal in child.ignored {
            libc::signal(*signal, libc::SIG_DFL);
        }
        offer_to_oom_killer();
        if let Err(errno) = become_user(child) {
            child.failure = Failure::Identity(errno);
            libc::_exit(127);
        }
        if libc::chdir(child.cwd) != 0 {
            child.failure = Failure::WorkingDirectory(errno());
            libc::_exit(127);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
        let (code, reason) = verdict(execute(child));
        complain(child.name, reason);
        libc::_exit(code)
    }
}

/// Raw calls: the C library's wrappers would do this to every thread of the agent.
unsafe fn become_user(child: &Child) -> Result<(), c_int> {
    // SAFETY: `groups` points to `group_count` ids that the parent keeps alive.
    let done = unsafe {
        libc::syscall(libc::SYS_setgroups, child.group_count, child.groups) == 0
            && libc::syscall(libc::SYS_setresgid, child.gid, child.gid, child.gid) == 0
            && libc::syscall(libc::SYS_setresuid, child.uid, child.uid, child.uid) == 0
    };
    if done { Ok(()) } else { Err(errno()) }
}

/// Best effort: a sandbox without /proc still runs programs.
unsafe fn offer_to_oom_killer() {
    // SAFETY: a constant path and a constant buffer.
    unsafe {
        let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file >= 0 {
            libc::write(file, OOM_SCORE_ADJ.as_ptr().cast(), OOM_SCORE_ADJ.len());
            libc::close(file);
        }
    }
}

/// Returns only when nothing could be executed: with the error of the last file that was there, else ENOENT, and
/// whether a file was there.
unsafe fn execute(child: &mut Child) -> (c_int, bool) {
    let mut failure = (libc::ENOENT, false);
    for path in &child.candidates {
        // SAFETY: all arrays are null-terminated and their strings are kept alive by the parent.
        unsafe {
            // Asking first is far cheaper than an execve that fails.
            if libc::access(*path, libc::X_OK) == 0 {
                libc::execve(*path, child.argv.as_ptr(), child.envp.as_ptr());
                if errno() == libc::ENOEXEC {
                    child.shell_argv[1] = *path;
                    libc::execve(c"/bin/sh".as_ptr(), child.shell_argv.as_ptr(), child.envp.as_ptr());
                }
                failure = (errno(), true);
            } else if errno() != libc::ENOENT && errno() != libc::ENOTDIR {
                failure = (errno(), true);
            }
        }
    }
    failure
}

fn verdict((errno, found): (c_int, bool)) -> (c_int, &'static CStr) {
    match (found, errno) {
        (false, _) => (127, c": command not found\n"),
        (true, libc::EACCES) => (126, c": cannot be executed: permission denied\n"),
        (true, libc::ENOENT) => (126, c": cannot be executed: its interpreter does not exist\n"),
        (true, libc::ENOEXEC) => (126, c": cannot be executed: not a program\n"),
        (true, libc::E2BIG) => (126, c": cannot be executed: arguments and environment are too long\n"),
        (true, libc::ENOMEM) => (126, c": cannot be executed: out of memory\n"),
        (true, _) => (126, c": cannot be executed\n"),
    }
}

unsafe fn complain(name: *const c_char, reason: &CStr) {
    for text in [c"sandpiper: ".as_ptr(), name, reason.as_ptr()] {
        // SAFETY: three null-terminated strings.
        unsafe { libc::write(2, text.cast(), libc::strlen(text)) };
    }
}

fn errno() -> c_int {
    // SAFETY: always a valid pointer. The child shares it with its parent's thread, which is suspended.
    unsafe { *libc::__errno_location() }
}

/// Signals that the agent ignores, which a program would inherit; asked once, because it never changes.
fn ignored_signals() -> &'static [c_int] {
    static IGNORED: OnceLock<Vec<c_int>> = OnceLock::new();
    IGNORED.get_or_init(|| (1..=libc::SIGRTMAX()).filter(|signal| is_ignored(*signal)).collect())
}

fn is_ignored(signal: c_int) -> bool {
    // SAFETY: an all-zero sigaction is valid, and a null action only asks.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Keeps signals away from the calling thread for good, so that they wake only the one that waits for them.
pub fn block_signals() {
    std::mem::forget(BlockedSignals::new());
}

/// All signals of this thread, blocked as long as this lives.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn new() -> Self {
        // SAFETY: all-zero sets are valid and filled in before use.
        unsafe {
            let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            Self(before)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set that `new` was given.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, ptr::null_mut()) };
    }
}
