//! Commands that the host runs in its own conversation.

use buffa::Message;
use proto::direct::answer::News;
use proto::direct::end::End;
use proto::direct::word::Word as Said;
use proto::direct::{Answer, Run, Word};
use proto::process::ListRequest;
use serde_json::json;

use crate::harness::{Agent, Direct, is_alive, open_directory, until};

fn word(said: Said) -> Vec<u8> {
    Word { word: Some(said), ..Default::default() }.encode_to_vec()
}

fn shell(script: &str) -> Run {
    Run { cmd: "/bin/sh".to_owned(), args: vec!["-c".to_owned(), script.to_owned()], ..Default::default() }
}

fn begin(host: &mut Direct, run: Run) {
    host.tell(&word(Said::Run(Box::new(run)))).unwrap();
}

#[derive(Debug, Default, PartialEq)]
struct Ended {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    end: Option<End>,
    error: String,
    is_early: bool,
}

/// Hears until the end.
fn end(host: &mut Direct) -> Ended {
    let mut ended = Ended::default();
    loop {
        let Answer { error, is_early, news, .. } = host.hear().unwrap();
        (ended.error, ended.is_early) = (error, is_early);
        match news {
            Some(News::Stdout(bytes)) => ended.stdout.extend(bytes),
            Some(News::Stderr(bytes)) => ended.stderr.extend(bytes),
            Some(News::End(end)) => return Ended { end: end.end, ..ended },
            None => return ended,
        }
    }
}

fn run(host: &mut Direct, run: Run) -> Ended {
    begin(host, run);
    end(host)
}

#[tokio::test]
async fn one_conversation_runs_many_commands() {
    let agent = Agent::open().await;
    let mut host = agent.direct();
    let first = run(&mut host, shell("echo out; echo err >&2; exit 3"));
    assert_eq!(
        (&first.stdout[..], &first.stderr[..], first.end),
        (&b"out\n"[..], &b"err\n"[..], Some(End::ExitCode(3)))
    );
    let second = run(&mut host, shell("kill -SEGV $$"));
    assert_eq!(second.end, Some(End::Signal(11)));
    let third = run(&mut host, Run { cmd: "nonesuch".to_owned(), ..Default::default() });
    assert_eq!(third.end, Some(End::ExitCode(127)));
    assert!(String::from_utf8(third.stderr).unwrap().contains("nonesuch"));
}

#[tokio::test]
async fn a_command_has_the_user_environment_and_directory_that_were_asked_for() {
    let agent = Agent::fresh();
    agent.init(json!({"envVars": {"A": "sandbox", "B": "sandbox"}, "defaultUser": "daemon"})).await;
    let mut host = agent.direct();
    let plain = run(&mut host, shell("id -un; pwd; echo $A $B"));
    assert_eq!(String::from_utf8(plain.stdout).unwrap(), "daemon\n/usr/sbin\nsandbox sandbox\n");
    let envs = [("B".to_owned(), "command".to_owned())].into_iter().collect();
    let asked = Run { envs, cwd: "/tmp".to_owned(), user: "bin".to_owned(), ..shell("id -un; pwd; echo $A $B") };
    assert_eq!(String::from_utf8(run(&mut host, asked).stdout).unwrap(), "bin\n/tmp\nsandbox command\n");
    for (asked, words) in [
        (Run { user: "nobody-here".to_owned(), ..shell("true") }, "invalid username: 'nobody-here'"),
        (Run { cwd: "/no/such".to_owned(), ..shell("true") }, "cwd '/no/such' does not exist"),
        (Run::default(), "cmd is empty"),
    ] {
        assert_eq!(run(&mut host, asked).error, words);
    }
}

#[tokio::test]
async fn only_who_has_the_token_runs_commands_and_nobody_in_a_frozen_system() {
    let agent = Agent::fresh();
    let mut host = agent.direct();
    let early = Ended { error: "sandbox is not initialised yet".to_owned(), is_early: true, ..Ended::default() };
    assert_eq!(run(&mut host, shell("true")), early);
    agent.init(json!({"accessToken": "secret"})).await;
    let stranger = run(&mut host, shell("true"));
    assert_eq!((stranger.error.as_str(), stranger.is_early), ("invalid access token", false));
    let mine = || Run { access_token: "secret".to_owned(), ..shell("true") };
    assert_eq!(run(&mut host, mine()).end, Some(End::ExitCode(0)));
    assert_eq!(agent.put("/freeze", "").await.0, 204);
    assert_eq!(run(&mut host, mine()), early);
    let elsewhere = Agent::with_control_peer("169.254.0.22");
    let mut stranger = elsewhere.direct();
    let told = stranger.tell(&word(Said::Run(Box::new(shell("true")))));
    assert!(told.and_then(|()| stranger.hear()).is_err(), "it hangs up");
}

#[tokio::test]
async fn the_time_limit_kills_the_group_and_what_was_written_is_told() {
    let agent = Agent::open().await;
    let mut host = agent.direct();
    let asked = Run { timeout_ms: 500, ..shell("sleep 1000 & echo $!; wait") };
    let ended = run(&mut host, asked);
    assert!(matches!(ended.end, Some(End::TimedOut(_))), "{ended:?}");
    let child = String::from_utf8(ended.stdout).unwrap();
    until("the child is killed too", || !is_alive(&child)).await;
    assert_eq!(run(&mut host, shell("true")).end, Some(End::ExitCode(0)));
}

#[tokio::test]
async fn a_command_that_is_taken_back_is_killed_and_one_whose_host_is_lost_goes_on() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let (pid, go, done) = (directory.path().join("pid"), directory.path().join("go"), directory.path().join("done"));
    let mut host = agent.direct();
    begin(&mut host, shell(&format!("echo $$ > {}; exec sleep 1000", pid.display())));
    let began = || std::fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n'));
    until("it runs", began).await;
    host.tell(&word(Said::Kill(Box::default()))).unwrap();
    assert_eq!(end(&mut host).end, Some(End::Signal(9)));
    host.tell(&word(Said::Kill(Box::default()))).unwrap();
    assert_eq!(run(&mut host, shell("true")).end, Some(End::ExitCode(0)), "a late one is nothing");

    let script = format!(
        "echo begun > {0}; until [ -e {1} ]; do sleep 0.02; done; echo lots; : > {2}",
        pid.display(),
        go.display(),
        done.display()
    );
    begin(&mut host, shell(&script));
    until("it runs", || std::fs::read_to_string(&pid).is_ok_and(|text| text == "begun\n")).await;
    drop(host);
    let listed = agent.processes().list(ListRequest::default()).await.unwrap().into_owned().processes;
    assert_eq!(listed.len(), 1, "it runs and can be found");
    std::fs::write(&go, "").unwrap();
    until("it came to its end", || done.exists()).await;
}

#[tokio::test]
async fn much_output_arrives_whole_and_what_is_left_behind_delays_nothing() {
    let agent = Agent::open().await;
    let mut host = agent.direct();
    let ended = run(&mut host, shell("seq 1 300000; (sleep 1000 & echo $!) >&2"));
    let expect: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    assert!(ended.stdout == expect.as_bytes(), "{} bytes instead of {}", ended.stdout.len(), expect.len());
    assert!(is_alive(&String::from_utf8(ended.stderr).unwrap()));
}
