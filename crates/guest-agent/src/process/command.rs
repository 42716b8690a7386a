//! What a request asks to run, turned into what the system runs: environment, working directory, files to try. Pure;
//! the system is asked only in `spawn`.

use std::collections::BTreeMap;
use std::ffi::{CString, NulError};
use std::os::fd::BorrowedFd;

use super::spawn::{Program, Session};
use crate::files::path;
use crate::settings::Settings;
use crate::users::User;

/// Where programs are sought unless the environment says otherwise.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What the clients of terminals emulate unless they say otherwise.
const DEFAULT_TERMINAL: &str = "xterm-256color";

/// What a client asked to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// A file, or a name to seek in PATH.
    pub cmd: String,
    /// Arguments after the zeroth.
    pub args: Vec<String>,
    /// Environment on top of the sandbox's.
    pub envs: BTreeMap<String, String>,
    /// Working directory, when one was asked for.
    pub cwd: Option<String>,
}

/// Why a command cannot be run as asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Nothing to run.
    #[error("cmd is empty")]
    Empty,
    /// The working directory's path is no path.
    #[error("cwd")]
    WorkingDirectory(#[source] path::PathError),
    /// A name that no environment can hold.
    #[error("environment variable name '{0}' is empty or contains '='")]
    VariableName(String),
    /// A string that no program can be given.
    #[error("command, argument or environment")]
    Nul(#[source] NulError),
}

/// The working directory of `command`, absolute.
pub fn working_directory(command: &Command, user: &User, settings: &Settings) -> Result<String, CommandError> {
    path::resolve(command.cwd.as_deref().unwrap_or_default(), &user.home, settings.default_workdir.as_deref())
        .map_err(CommandError::WorkingDirectory)
}

/// The program that `command` names, for `user`, in `cwd`.
pub fn program<'a>(
    command: &Command,
    user: &User,
    settings: &Settings,
    cwd: &str,
    stdio: [BorrowedFd<'a>; 3],
    session: Session,
) -> Result<Program<'a>, CommandError> {
    if command.cmd.is_empty() {
        return Err(CommandError::Empty);
    }
    let env = environment(command, user, settings, session)?;
    let candidates = candidates(&command.cmd, env.get("PATH").copied().unwrap_or(DEFAULT_PATH));
    let argv = std::iter::once(&command.cmd).chain(&command.args).map(String::as_str);
    Ok(Program {
        name: c_string(command.cmd.as_str())?,
        candidates: candidates.into_iter().map(c_string).collect::<Result<_, _>>()?,
        argv: argv.map(c_string).collect::<Result<_, _>>()?,
        envp: env.iter().map(|(name, value)| c_string(format!("{name}={value}"))).collect::<Result<_, _>>()?,
        cwd: c_string(cwd)?,
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        groups: user.groups.iter().map(|gid| gid.as_raw()).collect(),
        stdio,
        session,
    })
}

fn environment<'a>(
    command: &'a Command,
    user: &'a User,
    settings: &'a Settings,
    session: Session,
) -> Result<BTreeMap<&'a str, &'a str>, CommandError> {
    let mut env = BTreeMap::from([
        ("PATH", DEFAULT_PATH),
        ("HOME", user.home.as_str()),
        ("USER", user.name.as_str()),
        ("LOGNAME", user.name.as_str()),
    ]);
    if session == Session::OnTerminal {
        env.insert("TERM", DEFAULT_TERMINAL);
    }
    env.extend(settings.envs.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    env.extend(command.envs.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    match env.keys().find(|name| name.is_empty() || name.contains('=')) {
        Some(name) => Err(CommandError::VariableName((*name).to_owned())),
        None => Ok(env),
    }
}

/// A command with a slash is a file; another is sought, an empty part of PATH being the working directory.
fn candidates(cmd: &str, path: &str) -> Vec<String> {
    if cmd.contains('/') {
        return vec![cmd.to_owned()];
    }
    path.split(':').map(|dir| if dir.is_empty() { format!("./{cmd}") } else { format!("{dir}/{cmd}") }).collect()
}

fn c_string(text: impl Into<Vec<u8>>) -> Result<CString, CommandError> {
    CString::new(text).map_err(CommandError::Nul)
}

#[cfg(test)]
mod tests {
    use rustix::process::{Gid, Uid};

    use super::*;

    fn user() -> User {
        let (uid, gid) = (Uid::from_raw(1000), Gid::from_raw(1000));
        User { name: "user".into(), uid, gid, groups: vec![gid], home: "/home/user".into() }
    }

    #[test]
    fn the_last_word_on_a_variable_is_the_request() {
        let mut settings = Settings::default();
        settings.envs.extend([("A".into(), "sandbox".into()), ("USER".into(), "sandbox".into())]);
        let command = Command { envs: BTreeMap::from([("A".into(), "request".into())]), ..Default::default() };
        let user = user();
        let env = environment(&command, &user, &settings, Session::Plain).unwrap();
        assert_eq!((env["A"], env["USER"], env["LOGNAME"]), ("request", "sandbox", "user"));
        assert_eq!((env["HOME"], env["PATH"]), ("/home/user", DEFAULT_PATH));
        assert_eq!(env.get("TERM"), None);
        let env = environment(&command, &user, &settings, Session::OnTerminal).unwrap();
        assert_eq!(env["TERM"], DEFAULT_TERMINAL);
    }

    #[test]
    fn impossible_variable_names_are_refused() {
        for name in ["", "A=B"] {
            let command = Command { envs: BTreeMap::from([(name.into(), "x".into())]), ..Default::default() };
            let error = environment(&command, &user(), &Settings::default(), Session::Plain).unwrap_err();
            assert!(matches!(error, CommandError::VariableName(_)), "{name}");
        }
    }

    #[test]
    fn a_name_is_sought_and_a_file_is_not() {
        assert_eq!(candidates("ls", "/a::/b"), ["/a/ls", "./ls", "/b/ls"]);
        assert_eq!(candidates("./ls", "/a"), ["./ls"]);
    }
}
