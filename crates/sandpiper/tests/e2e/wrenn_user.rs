//! The template `minimal-ubuntu`: the image of `minimal` for an ordinary user who may become root.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::{Value, json};

use super::server;

#[tokio::test]
async fn an_ordinary_user_is_at_home_and_may_become_root() {
    let server = server(&["--templates", "minimal-ubuntu"]).await;
    let id = server.create(json!({ "template": "minimal-ubuntu" })).await;
    let exec = async |cmd: &str, args: Value| {
        let body = json!({ "cmd": cmd, "args": args });
        server.call("POST", &format!("/v1/sandboxes/{id}/exec"), body).await
    };
    let script = "whoami; pwd; echo $HOME; which sudo; sudo whoami; sudo -n id -u; echo -e 'a\\nb'; seq 2; \
                  printf '%s\\n' x; touch mine && ls; git init -q r && git -C r symbolic-ref --short HEAD; sleep 0";
    let answer = exec("/bin/bash", json!(["-lc", script])).await;
    let expect = "wrenn-user\n/home/wrenn-user\n/home/wrenn-user\n/usr/bin/sudo\nroot\n0\na\nb\n1\n2\nx\nmine\nmain\n";
    assert_eq!((&answer.body["stdout"], &answer.body["exit_code"]), (&json!(expect), &json!(0)), "{answer:?}");
    let answer = exec("cat", json!(["/etc/shadow"])).await;
    assert_eq!(answer.body["exit_code"], json!(1), "not root by itself: {answer:?}");

    // The one that it shares its image with goes on being root's.
    let other = server.create(json!({ "template": "minimal" })).await;
    assert_eq!(server.shell(&other, "whoami; pwd").await.1, "root\n/root\n");
    let image = |name: &str| {
        let path = server.data_dir().join("templates").join(name).join("current/rootfs.ext4");
        fs::metadata(path).unwrap().ino()
    };
    assert_eq!(image("minimal-ubuntu"), image("minimal"), "there is one image");
}
