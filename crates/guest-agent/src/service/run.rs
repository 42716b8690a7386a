//! A command whose output the host collects, in its own conversation: the thread that speaks with the host starts the
//! process, follows it, and passes on what it writes.

use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::direct::answer::News;
use proto::direct::end::End as HowItEnded;
use proto::direct::word::Word as Said;
use proto::direct::{Answer, End as WireEnd, Run};

use super::direct::{put, receive};
use super::{Agent, gate};
use crate::auth::Refusal;
use crate::log;
use crate::process::reaper::Exit;
use crate::process::{Command, Companion, End, Kind, Request, StartError, Started, Streams, Wish};
use crate::settings::Settings;

/// What is sent at once: nobody reads the beginning before the end is there.
const PIECE: usize = 64 * 1024;

/// Runs a command to its end and answers. An error means that the host cannot be spoken with any more.
pub fn run(stream: &TcpStream, agent: &Agent, asked: Run) -> io::Result<()> {
    let settings = agent.settings.current();
    let mut host = Host { stream, unsent: Vec::new(), is_there: true };
    match start(agent, &settings, asked) {
        Err(refusal) => host.say(&refusal),
        Ok(started) => {
            let (end, output) = started.follow(&mut host);
            host.say(&Answer { news: Some(wire_end(end).into()), ..Default::default() });
            if output.is_open() {
                // What it left behind writes to nobody, for as long as it likes.
                std::thread::Builder::new().name("leftover".to_owned()).spawn(move || output.discard())?;
            }
        }
    }
    host.send();
    if host.is_there { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) }
}

fn start(agent: &Agent, settings: &Settings, asked: Run) -> Result<Started, Answer> {
    let refused =
        |error: &dyn std::error::Error, is_fault| Answer { error: log::chain(error), is_fault, ..Default::default() };
    gate::check(settings, Some(asked.access_token.as_bytes()))
        .map_err(|refusal| Answer { is_early: refusal == Refusal::NotInitialised, ..refused(&refusal, false) })?;
    let request = Request {
        command: Command {
            cmd: asked.cmd,
            args: asked.args,
            envs: asked.envs.into_iter().collect(),
            cwd: Some(asked.cwd).filter(|cwd| !cwd.is_empty()),
        },
        user: if asked.user.is_empty() { settings.default_user.clone() } else { asked.user },
        tag: None,
        streams: Streams::Output,
        deadline: (asked.timeout_ms > 0).then(|| Instant::now() + Duration::from_millis(asked.timeout_ms)),
    };
    agent.processes.launch(request, settings).map_err(|error| refused(&error, is_fault(&error)))
}

fn is_fault(error: &StartError) -> bool {
    matches!(error, StartError::Streams(_) | StartError::Interrupted)
}

fn wire_end(end: End) -> WireEnd {
    let end = match end {
        End::Exited(Exit::Code(code)) => HowItEnded::ExitCode(code),
        End::Exited(Exit::Signal(signal)) => HowItEnded::Signal(signal),
        End::TimedOut => HowItEnded::TimedOut(Box::default()),
    };
    WireEnd { end: Some(end), ..Default::default() }
}

/// The host, which waits for the end of a command.
struct Host<'a> {
    stream: &'a TcpStream,
    unsent: Vec<u8>,
    /// One that has gone hears nothing more. The command goes on.
    is_there: bool,
}

impl Host<'_> {
    fn say(&mut self, answer: &Answer) {
        self.is_there &= put(&mut self.unsent, answer).is_ok();
    }

    fn send(&mut self) {
        self.is_there = self.is_there && self.stream.write_all(&self.unsent).is_ok();
        self.unsent.clear();
    }
}

impl Companion for Host<'_> {
    fn heard(&mut self, kind: Kind, bytes: &Bytes) {
        let news = match kind {
            Kind::Stdout | Kind::Terminal => News::Stdout(bytes.to_vec()),
            Kind::Stderr => News::Stderr(bytes.to_vec()),
        };
        self.say(&Answer { news: Some(news), ..Default::default() });
        if self.unsent.len() >= PIECE {
            self.send();
        }
    }

    fn line(&self) -> Option<BorrowedFd<'_>> {
        self.is_there.then(|| self.stream.as_fd())
    }

    /// A host that takes back the command says so. One that only is not there any more may be another one soon.
    fn rang(&mut self) -> Wish {
        match receive(&mut self.stream) {
            Ok(Some(Said::Kill(_))) => Wish::Kill,
            Ok(_) | Err(_) => {
                self.is_there = false;
                Wish::GoOn
            }
        }
    }
}
