//! Ports that belong to a sandbox: exposed whenever it runs, whoever starts it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};

use sha2::{Digest as _, Sha256};
use smolvm_tests::{Host, PATIENCE};

/// Port of the guest that [`serve`] listens on.
const GUEST_PORT: u16 = 8000;

#[test]
fn port_of_a_sandbox_answers_whoever_starts_it_and_after_a_pause() {
    let host = Host::new();
    let port = free_port();
    create(&host, port);
    for word in ["first", "second"] {
        // Another process than the one that created it.
        let _started = host.smolvm(&["start", "box"]).ok();
        serve(&host, word);
        assert_eq!(get(port), format!("{word}\n"));
        let _stopped = host.smolvm(&["stop", "box"]).ok();
        assert!(is_closed(port), "the port of a stopped sandbox is open");
    }
    let _started = host.smolvm(&["start", "box"]).ok();
    serve(&host, "third");
    let by_hand = exposed(&host);
    assert_eq!(by_hand, port, "it is exposed already");
    let _paused = host.smolvm(&["pause", "box"]).ok();
    assert!(is_closed(port), "the port of a paused sandbox is open");
    let _resumed = host.smolvm(&["resume", "box"]).ok();
    assert_eq!(get(port), "third\n");
}

#[test]
fn port_exposed_by_hand_comes_back_after_a_pause() {
    let host = Host::new();
    host.start("box", &[]);
    serve(&host, "here");
    let port = exposed(&host);
    let _paused = host.smolvm(&["pause", "box"]).ok();
    assert!(is_closed(port));
    let _resumed = host.smolvm(&["resume", "box"]).ok();
    assert_eq!(get(port), "here\n");
}

/// What a connection sends to, and is told the SHA-256 of once it has ended its half.
const DIGEST: &str = "
import hashlib, os, socketserver
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        total = hashlib.sha256()
        while piece := self.request.recv(1 << 16):
            total.update(piece)
        self.request.sendall(total.hexdigest().encode())
class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 128
server = Server(('127.0.0.1', 8000), Handler)
if os.fork(): os._exit(0)
os.setsid()
for stream in (0, 1, 2): os.close(stream)
server.serve_forever()
";

/// Bytes of the longest connection.
const LONG_BYTES: usize = 64 << 20;

#[test]
fn connections_of_every_shape_are_carried_without_a_network() {
    let host = Host::new();
    host.start("box", &["--net", "off"]);
    let _listening = host
        .smolvm(&["exec", "box", "--", "python3", "-c", DIGEST])
        .ok();
    let port = exposed(&host);
    for number in 0..300 {
        assert_digest(port, format!("connection {number}").as_bytes());
    }
    std::thread::scope(|scope| {
        for number in 0..50_u8 {
            scope.spawn(move || assert_digest(port, &vec![number; 100_000]));
        }
    });
    assert_digest(port, &vec![7; LONG_BYTES]);
    let elsewhere = "127.0.0.2";
    assert!(
        TcpStream::connect((elsewhere, port)).is_err(),
        "it is open at {elsewhere}, and so elsewhere than on 127.0.0.1"
    );
}

/// Sends bytes, ends that half of the connection, and expects their digest.
fn assert_digest(port: u16, bytes: &[u8]) {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).expect("the port is open");
    connection
        .set_read_timeout(Some(PATIENCE))
        .expect("a live socket");
    connection.write_all(bytes).expect("sent");
    connection.shutdown(Shutdown::Write).expect("a live socket");
    let mut answer = String::new();
    connection
        .read_to_string(&mut answer)
        .expect("the guest answers");
    let digest = Sha256::digest(bytes);
    let expected: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(answer, expected, "{} bytes", bytes.len());
}

#[test]
fn taken_port_fails_the_start_by_its_number_and_the_next_start_works() {
    let host = Host::new();
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    create(&host, port);
    let refused = host.smolvm(&["start", "box", "--json"]);
    assert_eq!(refused.code, 1);
    let error = refused.json()["error"].clone();
    assert_eq!(error["code"], "port_taken");
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains(&port.to_string()), "{message}");
    drop(taken);
    let _started = host.smolvm(&["start", "box"]).ok();
    assert_eq!(host.sh("box", "echo up").ok().text(), "up\n");
}

#[test]
fn port_taken_during_a_pause_keeps_the_sandbox_paused_until_it_is_free() {
    let host = Host::new();
    let port = free_port();
    create(&host, port);
    let _started = host.smolvm(&["start", "box"]).ok();
    serve(&host, "kept");
    let _paused = host.smolvm(&["pause", "box"]).ok();
    let taken = TcpListener::bind(("127.0.0.1", port)).expect("free while it is paused");
    let refused = host.smolvm(&["resume", "box"]);
    assert_eq!(refused.code, 1);
    assert!(
        refused.errors().contains(&port.to_string()),
        "{}",
        refused.errors()
    );
    drop(taken);
    let _resumed = host.smolvm(&["resume", "box"]).ok();
    assert_eq!(get(port), "kept\n");
}

#[test]
fn ports_that_cannot_be_are_refused_before_anything_is_made() {
    let host = Host::new();
    for (ports, code) in [
        (&["0:80"][..], 2),
        (&["80"], 2),
        (&["65536:80"], 2),
        (&["8080:80", "8080:81"], 1),
        (&["8080:80", "8081:80"], 1),
    ] {
        let mut arguments = vec!["create", "--name", "box"];
        for port in ports {
            arguments.extend(["--port", port]);
        }
        assert_eq!(host.smolvm(&arguments).code, code, "{ports:?}");
        assert_eq!(host.remains(), Vec::<String>::new(), "{ports:?}");
    }
}

/// Creates `box`, which has its port on `port` of this host.
fn create(host: &Host, port: u16) {
    let ports = format!("{port}:{GUEST_PORT}");
    let _created = host
        .smolvm(&["create", "--name", "box", "--port", &ports])
        .ok();
}

/// Starts a server in the guest that answers every connection with a line.
fn serve(host: &Host, line: &str) {
    let server = format!(
        "import os, socket\n\
         server = socket.create_server(('127.0.0.1', {GUEST_PORT}))\n\
         if os.fork(): os._exit(0)\n\
         os.setsid()\n\
         for stream in (0, 1, 2): os.close(stream)\n\
         while True:\n  \
           connection, _ = server.accept()\n  \
           connection.sendall(b'{line}\\n')\n  \
           connection.close()\n"
    );
    let _listening = host
        .smolvm(&["exec", "box", "--", "python3", "-c", &server])
        .ok();
}

/// Exposes the guest's port and returns that of this host.
fn exposed(host: &Host) -> u16 {
    let port = GUEST_PORT.to_string();
    let document = host
        .smolvm(&["port", "expose", "box", &port, "--json"])
        .ok()
        .json();
    let port = document["data"]["host_port"].as_u64().expect("a port");
    u16::try_from(port).expect("a port")
}

fn get(port: u16) -> String {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).expect("the port is open");
    connection
        .set_read_timeout(Some(PATIENCE))
        .expect("a live socket");
    let mut answer = String::new();
    connection
        .read_to_string(&mut answer)
        .expect("the guest answers");
    answer
}

fn is_closed(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_err()
}

/// Returns a port that nobody has at this moment.
fn free_port() -> u16 {
    let probe = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    probe.local_addr().expect("bound").port()
}
