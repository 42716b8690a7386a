//! Each sandbox's own network, as seen from both sides.

use serde_json::json;
use testkit::wait_for;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::server;

#[tokio::test]
async fn the_host_reaches_a_service_in_the_guest_by_its_host_ip() {
    let server = server(&["--templates", "python311"]).await;
    let id = server.create(json!({ "template": "python311" })).await;
    let info = server.call("GET", &format!("/v1/sandboxes/{id}"), serde_json::Value::Null).await.body;
    let host_ip = info["host_ip"].as_str().unwrap().to_owned();
    let slot: u32 = server.inventory().of_kind("slot")[0].parse().unwrap();
    assert_eq!(host_ip, format!("10.11.{}.{}", slot / 256, slot % 256), "the addressing of the contract");
    let start = "mkdir /srv/www && echo from the guest > /srv/www/index.html && cd /srv/www && \
                 (python3 -m http.server 8000 > /dev/null 2>&1 &)";
    assert_eq!(server.shell(&id, start).await.0, 0);
    let page = wait_for("the service to answer", async || {
        let mut stream = tokio::net::TcpStream::connect((host_ip.as_str(), 8000)).await.ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    })
    .await;
    assert!(page.contains("from the guest"), "{page}");
}

#[tokio::test]
async fn guests_have_the_same_address_and_do_not_meet() {
    let server = server(&["--templates", "python311"]).await;
    let body = json!({ "template": "python311" });
    let (one, two) = tokio::join!(server.create(body.clone()), server.create(body));
    let address = "ip -4 -o addr show eth0 | awk '{print $4}'; cat /sys/class/net/eth0/address";
    for id in [&one, &two] {
        assert_eq!(server.shell(id, address).await.1, "169.254.0.21/30\n02:fc:00:00:00:05\n");
    }
    let info = server.call("GET", &format!("/v1/sandboxes/{two}"), serde_json::Value::Null).await.body;
    let other = info["host_ip"].as_str().unwrap();
    let connect = format!(
        "python3 -c 'import socket; s = socket.socket(); s.settimeout(2); print(s.connect_ex((\"{other}\", 49983)) != 0)'"
    );
    assert_eq!(server.shell(&one, &connect).await.1, "True\n", "one guest does not reach another");
}
