//! Services of loopback, to which the host is joined.

use std::io::{Read, Write};
use std::net::TcpListener;

use crate::harness::{Agent, PATIENCE};

const JOINED: u8 = 0;
const NOBODY: u8 = 1;

/// Answers one connection with what it was sent, once that has ended.
fn echo(address: &str) -> u16 {
    let listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    });
    port
}

#[test]
fn the_host_is_joined_to_what_listens_on_either_loopback_address() {
    let agent = Agent::fresh();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (answer, mut stream) = agent.join(echo(address)).unwrap();
        assert_eq!(answer, JOINED, "{address}");
        let sent: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        stream.write_all(&sent).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert_eq!(back, sent, "{address}");
    }
}

#[test]
fn where_nobody_listens_and_at_the_agents_own_ports_there_is_nobody() {
    let agent = Agent::fresh();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for port in agent.ports().into_iter().chain([closed]) {
        assert_eq!(agent.join(port).unwrap().0, NOBODY, "{port}");
    }
}

#[test]
fn nobody_but_the_host_is_joined_to_anything() {
    let agent = Agent::with_control_peer("192.0.2.1");
    assert!(agent.join(echo("127.0.0.1:0")).is_none());
}
