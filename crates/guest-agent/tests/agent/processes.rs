//! Starting, listing and signalling processes, as clients see it. Section 7.1 of the contract, where the names of tests
//! here do not say it: environment, `/dev/null`, oom score in `a_process_has_…` and `a_process_starts_clean`; input in
//! `input`, terminals in `terminals`, the bytes of it all in `wire`. That no terminal can be had is not caused by any test.

use std::time::Duration;

use connectrpc::ErrorCode;
use connectrpc::client::CallOptions;
use proto::process::process_event::Event;
use proto::process::{
    CloseStdinRequest, ConnectRequest, ListRequest, ProcessSelector, SendSignalRequest, Signal, StartRequest,
};

use crate::harness::{
    Agent, Running, all_children, as_user, by_pid, by_tag, command, is_alive, open_directory, shell, until,
};

fn signal(process: ProcessSelector, signal: Signal) -> SendSignalRequest {
    SendSignalRequest { process: process.into(), signal: signal.into(), ..Default::default() }
}

fn with_config(mut request: StartRequest, change: impl FnOnce(&mut proto::process::ProcessConfig)) -> StartRequest {
    request.process.modify(change);
    request
}

#[tokio::test]
async fn output_and_exit_code_arrive_in_both_encodings() {
    let agent = Agent::open().await;
    for client in [agent.processes(), agent.processes_json()] {
        let request = shell("echo out; echo err >&2; exit 3");
        let ended = Running::begin(&client, request, CallOptions::default()).await.unwrap().end().await.unwrap();
        assert_eq!((ended.stdout(), ended.stderr()), ("out\n", "err\n"));
        assert_eq!((ended.end.exit_code, ended.end.exited), (3, true));
        assert_eq!((ended.end.status.as_str(), ended.end.error.as_deref()), ("exit status 3", Some("exit status 3")));
    }
    assert_eq!(agent.sh("true").await.end.error, None);
}

#[tokio::test]
async fn a_missing_program_is_127_and_one_that_cannot_be_executed_126() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let file = |name: &str, content: &str, mode| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let plain = file("plain", "x", 0o644);
    let no_interpreter = file("lost", "#!/no/such/interpreter\n", 0o755);
    let directory_path = directory.path().to_str().unwrap().to_owned();
    let cases = [("nonesuch", 127), ("/no/such", 127), (&plain, 126), (&no_interpreter, 126), (&directory_path, 126)];
    for (cmd, code) in cases {
        let ended = agent.run(command(cmd, &[]), CallOptions::default()).await.unwrap();
        assert_eq!(ended.end.exit_code, code, "{cmd}");
        assert!(ended.stderr().contains(cmd), "{cmd}: {}", ended.stderr());
    }
    let bare_script = file("script", "echo \"$0 $1\"\n", 0o755);
    let ended = agent.run(command(&bare_script, &["a b"]), CallOptions::default()).await.unwrap();
    assert_eq!(ended.stdout(), format!("{bare_script} a b\n"));
}

#[tokio::test]
async fn programs_are_sought_in_the_path_of_the_request() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let program = directory.path().join("mine");
    std::fs::write(&program, "#!/bin/sh\necho mine\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("/nowhere:{}", directory.path().display());
    let request = with_config(command("mine", &[]), |config| drop(config.envs.insert("PATH".into(), path)));
    assert_eq!(agent.run(request, CallOptions::default()).await.unwrap().stdout(), "mine\n");
}

#[tokio::test]
async fn a_process_has_the_user_s_identity_and_environment() {
    let agent = Agent::fresh();
    agent.init(serde_json::json!({"envVars": {"A": "sandbox", "B": "sandbox"}})).await;
    let script =
        "id -u; id -g; cut -d: -f2 < /dev/null; grep Groups /proc/self/status; echo $HOME $USER $LOGNAME $A $B; pwd";
    let request = with_config(shell(script), |config| {
        config.envs.insert("B".into(), "request".into());
        config.cwd = Some("/tmp".into());
    });
    let ended = agent.run(request, as_user("daemon")).await.unwrap();
    let lines: Vec<&str> = ended.stdout().lines().map(str::trim).collect();
    assert_eq!(lines, ["1", "1", "Groups:\t1", "/usr/sbin daemon daemon sandbox request", "/tmp"]);
}

#[tokio::test]
async fn the_working_directory_is_relative_to_the_home() {
    let agent = Agent::open().await;
    let home = |cwd: Option<&str>| {
        let cwd = cwd.map(str::to_owned);
        with_config(shell("pwd"), |config| config.cwd = cwd)
    };
    for (cwd, expect) in [(None, "/usr/sbin\n"), (Some("~"), "/usr/sbin\n"), (Some("../bin"), "/usr/bin\n")] {
        assert_eq!(agent.run(home(cwd), as_user("daemon")).await.unwrap().stdout(), expect, "{cwd:?}");
    }
    for missing in ["/no/such", "/etc/passwd"] {
        let error = agent.run(home(Some(missing)), as_user("daemon")).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidArgument);
        assert_eq!(error.message.as_deref(), Some(format!("cwd '{missing}' does not exist").as_str()));
    }
    // Nor is one that may not be entered, nor somebody else's home by name.
    let closed = tempfile::tempdir().unwrap();
    std::fs::set_permissions(closed.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    for refused in [closed.path().to_str().unwrap(), "~daemon"] {
        let error = agent.run(home(Some(refused)), as_user("daemon")).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidArgument, "{error}");
    }
}

#[tokio::test]
async fn who_names_no_user_and_no_directory_gets_what_the_host_says() {
    let agent = Agent::fresh();
    agent.init(serde_json::json!({"defaultUser": "daemon", "defaultWorkdir": "/tmp"})).await;
    assert_eq!(agent.sh("id -un; pwd").await.stdout(), "daemon\n/tmp\n");
    let at_home = with_config(shell("pwd"), |config| config.cwd = Some(".".into()));
    assert_eq!(agent.run(at_home, CallOptions::default()).await.unwrap().stdout(), "/usr/sbin\n");
    let ended = agent.run(shell("id -un; pwd"), as_user("root")).await.unwrap();
    assert_eq!(ended.stdout(), "root\n/tmp\n");
    let request = proto::filesystem::StatRequest::default();
    assert_eq!(agent.files().stat(request).await.unwrap().into_owned().entry.path, "/tmp");
}

#[tokio::test]
async fn an_unknown_user_is_unauthenticated() {
    let agent = Agent::open().await;
    let error = agent.run(shell("true"), as_user("nobody-here")).await.unwrap_err();
    assert_eq!(
        (error.code, error.message.as_deref()),
        (ErrorCode::Unauthenticated, Some("invalid username: 'nobody-here'"))
    );
}

#[tokio::test]
async fn a_process_starts_clean() {
    let agent = Agent::open().await;
    let script = "grep -E 'SigBlk|SigIgn' /proc/self/status; ls /proc/self/fd | wc -l; cat /proc/self/oom_score_adj; \
        ps -o sid= -p $$ | grep -qw $$ && echo own session; readlink /proc/self/fd/0; umask";
    let ended = agent.sh(script).await;
    let lines: Vec<&str> = ended.stdout().lines().collect();
    assert_eq!(lines[0], "SigBlk:\t0000000000000000");
    let ignored = u64::from_str_radix(lines[1].trim_start_matches("SigIgn:\t"), 16).unwrap();
    // The C library keeps signals 32 and 33 for itself; this test may have been started with them ignored.
    assert_eq!(ignored & !(0b11 << 31), 0, "{}", lines[1]);
    // The fourth descriptor is the directory that ls reads.
    assert_eq!(lines[2..], ["4", "100", "own session", "/dev/null", "0022"], "{}", ended.stderr());
}

#[tokio::test]
async fn a_signal_ends_the_process_and_what_it_started() {
    let agent = Agent::open().await;
    let mut running = agent.start(shell("sleep 1000 & echo $!; wait"), CallOptions::default()).await.unwrap();
    let Some(Event::Data(data)) = running.next().await.unwrap() else { panic!("no output") };
    let Some(proto::process::process_event::data_event::Output::Stdout(child)) = data.output else {
        panic!("{data:?}")
    };
    let client = agent.processes();
    client.send_signal(signal(by_pid(running.pid), Signal::SIGNAL_SIGKILL)).await.unwrap();
    let number = running.pid;
    let end = running.end().await.unwrap().end;
    assert_eq!((end.exit_code, end.exited, end.status.as_str()), (-1, false, "signal: killed"));
    let child = String::from_utf8(child).unwrap();
    until("the child is killed too", || !is_alive(&child)).await;
    let error = client.send_signal(signal(by_pid(number), Signal::SIGNAL_SIGKILL)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound);
    assert_eq!(error.message.as_deref(), Some(format!("process with pid {number} not found").as_str()));
}

#[tokio::test]
async fn a_process_can_catch_sigterm() {
    let agent = Agent::open().await;
    let script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 1000 & wait $!; done";
    let mut running = agent.start(shell(script), CallOptions::default()).await.unwrap();
    running.next().await.unwrap();
    agent.processes().send_signal(signal(by_pid(running.pid), Signal::SIGNAL_SIGTERM)).await.unwrap();
    let ended = running.end().await.unwrap();
    assert_eq!((ended.stdout(), ended.end.exit_code), ("bye\n", 7));
}

#[tokio::test]
async fn other_signals_and_selectors_are_unimplemented() {
    let agent = Agent::open().await;
    let client = agent.processes();
    let error = client.send_signal(signal(by_pid(1), Signal::SIGNAL_UNSPECIFIED)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unimplemented);
    let error = client.send_signal(signal(ProcessSelector::default(), Signal::SIGNAL_SIGKILL)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unimplemented);
    let error = client.close_stdin(CloseStdinRequest::default()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unimplemented);
}

#[tokio::test]
async fn the_time_limit_kills_the_whole_group() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let file = directory.path().join("pid");
    let request = shell(&format!("sleep 1000 & echo $! > {}; wait", file.display()));
    let options = CallOptions::default().with_timeout(Duration::from_millis(500));
    let error = agent.run(request, options).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::DeadlineExceeded);
    let child = std::fs::read_to_string(file).unwrap();
    until("the child is killed too", || !is_alive(&child)).await;
}

#[tokio::test]
async fn a_process_outlives_its_client_and_is_still_limited() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let file = directory.path().join("out");
    // More output than any buffer holds: a process that is blocked by it never comes to the file.
    let script = format!("head -c 4000000 /dev/zero; echo done > {}", file.display());
    let running = agent.start(shell(&script), CallOptions::default()).await.unwrap();
    drop(running);
    until("the process goes on", || std::fs::read_to_string(&file).is_ok_and(|text| text == "done\n")).await;

    let options = CallOptions::default().with_timeout(Duration::from_millis(500));
    let running = agent.start(command("sleep", &["1000"]), options).await.unwrap();
    let number = running.pid.to_string();
    drop(running);
    until("the limit holds without a client", || !is_alive(&number)).await;
}

#[tokio::test]
async fn a_slow_client_loses_nothing() {
    let agent = Agent::open().await;
    let mut running = agent.start(shell("seq 1 300000; echo end >&2"), CallOptions::default()).await.unwrap();
    let first = running.next().await.unwrap();
    // Its other requests are served while it does not read: what it has not taken waits with the process.
    assert_eq!(agent.sh("echo between").await.stdout(), "between\n");
    let Some(Event::Data(data)) = first else { panic!("{first:?}") };
    let Some(proto::process::process_event::data_event::Output::Stdout(mut text)) = data.output else { panic!() };
    let ended = running.end().await.unwrap();
    text.extend(&ended.stdout);
    let expect: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    assert!(text == expect.as_bytes(), "{} bytes instead of {}", text.len(), expect.len());
    assert_eq!(ended.stderr(), "end\n");
}

#[tokio::test]
async fn what_holds_the_pipes_does_not_delay_the_end() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let file = directory.path().join("alive");
    let script = format!("(sleep 2; echo more && echo yes > {}) & echo first", file.display());
    let ended = agent.sh(&script).await;
    assert_eq!((ended.stdout(), ended.end.exit_code), ("first\n", 0));
    assert!(!file.exists(), "the end came while it still held the pipes");
    until("it can go on writing to nobody", || file.exists()).await;
}

#[tokio::test]
async fn a_silent_stream_shows_that_it_lives() {
    let agent = Agent::open().await;
    let options = CallOptions::default().with_header("keepalive-ping-interval", "1");
    let mut request = shell("sleep 2.5");
    request.tag = Some("silent".into());
    let running = agent.start(request, options.clone()).await.unwrap();
    let connect = ConnectRequest { process: by_tag("silent").into(), ..Default::default() };
    let mut joined = agent.processes().connect_with_options(connect, options.clone()).await.unwrap();
    let mut signs = 0;
    while let Some(message) = joined.message().await.unwrap() {
        let event = message.to_owned_message().event.event.clone().unwrap();
        signs += usize::from(matches!(event, Event::Keepalive(_)));
    }
    assert!(signs >= 2, "{signs}");
    let ended = running.end().await.unwrap();
    assert!(ended.keepalives >= 2, "{}", ended.keepalives);
    // Whoever is told something need not be told that.
    let ended = agent.run(shell("for n in 1 2 3 4 5; do sleep 0.4; echo; done"), options).await.unwrap();
    assert_eq!((ended.stdout(), ended.keepalives), ("\n\n\n\n\n", 0));
}

#[tokio::test]
async fn whoever_joins_has_time_of_their_own_and_hears_of_a_kill_like_any_other() {
    let agent = Agent::open().await;
    let client = agent.processes();
    let limited = |millis| CallOptions::default().with_timeout(Duration::from_millis(millis));
    let running = agent.start(command("sleep", &["1000"]), limited(5000)).await.unwrap();
    let connect = || ConnectRequest { process: by_pid(running.pid).into(), ..Default::default() };
    let mut short = client.connect_with_options(connect(), limited(200)).await.unwrap();
    let mut long = client.connect(connect()).await.unwrap();
    for stream in [&mut short, &mut long] {
        assert!(matches!(
            stream.message().await.unwrap().unwrap().to_owned_message().event.event,
            Some(Event::Start(_))
        ));
    }
    assert_eq!(short.message().await.unwrap_err().code, ErrorCode::DeadlineExceeded);
    assert!(is_alive(&running.pid.to_string()), "who stops listening ends nothing");

    let killed = |event: Option<Event>| match event {
        Some(Event::End(end)) => (end.exit_code, end.exited, end.status) == (-1, false, "signal: killed".to_owned()),
        _ => false,
    };
    assert!(killed(long.message().await.unwrap().unwrap().to_owned_message().event.event.clone()));
    let mut late = client.connect(connect()).await.unwrap();
    late.message().await.unwrap().unwrap();
    assert!(killed(late.message().await.unwrap().unwrap().to_owned_message().event.event.clone()));
    assert_eq!(running.end().await.unwrap_err().code, ErrorCode::DeadlineExceeded, "it was the starter's limit");
}

#[tokio::test]
async fn a_name_that_is_used_again_is_the_new_process_s() {
    let agent = Agent::open().await;
    let named = |script: &str| StartRequest { tag: Some("name".into()), ..shell(script) };
    let old = agent.start(named("exit 3"), CallOptions::default()).await.unwrap();
    let pid = old.pid;
    old.end().await.unwrap();
    let connect = |process: ProcessSelector| ConnectRequest { process: process.into(), ..Default::default() };
    let client = agent.processes();
    client.connect(connect(by_pid(pid))).await.unwrap().message().await.expect("it is remembered");
    let new = agent.start(named("exec sleep 1000"), CallOptions::default()).await.unwrap();
    let mut found = client.connect(connect(by_tag("name"))).await.unwrap();
    let Some(Event::Start(start)) = found.message().await.unwrap().unwrap().to_owned_message().event.event.clone()
    else {
        panic!("no start")
    };
    assert_eq!(start.pid, new.pid);
    let code = match client.connect(connect(by_pid(pid))).await {
        Err(error) => error.code,
        Ok(mut stream) => stream.message().await.unwrap_err().code,
    };
    assert_eq!(code, ErrorCode::NotFound, "the old one is forgotten");
}

#[tokio::test]
async fn output_comes_in_chunks_of_at_most_32_kib() {
    let agent = Agent::open().await;
    let mut running = agent.start(shell("exec head -c 1000000 /dev/zero"), CallOptions::default()).await.unwrap();
    let (mut all, mut largest) = (0, 0);
    while let Some(event) = running.next().await.unwrap() {
        if let Event::Data(data) = event {
            let Some(proto::process::process_event::data_event::Output::Stdout(bytes)) = data.output else { panic!() };
            all += bytes.len();
            largest = largest.max(bytes.len());
        }
    }
    assert!(all == 1_000_000 && largest <= 32 * 1024, "{all} {largest}");
}

#[tokio::test]
async fn processes_are_listed_and_found_again() {
    let agent = Agent::open().await;
    let client = agent.processes();
    let directory = open_directory();
    let go = directory.path().join("go");
    let script = format!("until [ -e {} ]; do sleep 0.02; done; echo later; exit 5", go.display());
    let mut request = with_config(shell(&script), |config| drop(config.envs.insert("A".into(), "1".into())));
    request.tag = Some("mine".into());
    let running = agent.start(request.clone(), CallOptions::default()).await.unwrap();

    let listed = client.list(ListRequest::default()).await.unwrap().into_owned().processes;
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].pid, listed[0].tag.as_deref()), (running.pid, Some("mine")));
    assert_eq!(listed[0].config, request.process);

    let connect = |selector: ProcessSelector| ConnectRequest { process: selector.into(), ..Default::default() };
    let mut attached = client.connect(connect(by_tag("mine"))).await.unwrap();
    let mut events = Vec::new();
    events.push(attached.message().await.unwrap().unwrap().to_owned_message());
    std::fs::write(&go, "").unwrap();
    while let Some(message) = attached.message().await.unwrap() {
        events.push(message.to_owned_message());
    }
    let events: Vec<Event> = events.into_iter().map(|message| message.event.event.clone().unwrap()).collect();
    assert!(
        matches!(&events[..], [Event::Start(_), Event::Data(_), Event::End(end)] if end.exit_code == 5),
        "{events:?}"
    );

    // The start and the end are told for a while after that.
    let ended = running.end().await.unwrap();
    assert_eq!(ended.stdout(), "later\n");
    let mut late = client.connect(connect(by_tag("mine"))).await.unwrap();
    let mut count = 0;
    while late.message().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 2);
    let listed = client.list(ListRequest::default()).await.unwrap().into_owned().processes;
    assert!(listed.is_empty(), "{listed:?}");
    let mut nothing = client.connect(connect(by_tag("other"))).await;
    let code = match &mut nothing {
        Err(error) => error.code,
        Ok(stream) => stream.message().await.unwrap_err().code,
    };
    assert_eq!(code, ErrorCode::NotFound);
}

#[tokio::test]
async fn nothing_is_left_of_many_short_processes() {
    let agent = Agent::open().await;
    let pid = agent.pid();
    let pipes = || {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let targets = descriptors.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("pipe:")).count()
    };
    // Its standard error, and what this test was started with.
    let before = pipes();
    let runs = (0..100).map(|_| agent.run(command("true", &[]), CallOptions::default()));
    for ended in futures::future::join_all(runs).await {
        assert_eq!(ended.unwrap().end.exit_code, 0);
    }
    until("no zombie and no pipe is left", || all_children(pid).is_empty() && pipes() == before).await;
}
