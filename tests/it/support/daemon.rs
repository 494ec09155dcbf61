//! The built binary as a child process: started, asked, killed, stopped, started again.

use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{unique, wait_for};

/// For what should take a second or two.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Daemon {
    /// Holds `larder.toml` and whatever the test puts beside it; removed on drop unless the test fails.
    pub folder: PathBuf,
    environment: Vec<(String, String)>,
    child: Child,
    lines: Lines,
}

/// An answer of the daemon's HTTP server.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.body))
    }
}

/// What a command that ended by itself left behind.
#[derive(Debug)]
pub struct Ran {
    /// `None`: a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Daemon {
    /// Runs the binary to its end with this configuration as `larder.toml` in a new folder.
    pub fn command(arguments: &[&str], config: &str, environment: &[(&str, &str)]) -> Ran {
        let folder = std::env::temp_dir().join(unique("larder-it"));
        std::fs::create_dir(&folder).expect("make a folder for the command");
        std::fs::write(folder.join("larder.toml"), config).expect("write the configuration");
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        let output = command.args(arguments).current_dir(&folder).envs(environment.iter().copied()).stdin(Stdio::null()).output();
        let output = output.expect("run the binary");
        std::fs::remove_dir_all(&folder).expect("remove the folder of the command");
        let text = |bytes| String::from_utf8(bytes).expect("output of text");
        Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Runs `larder run` with this configuration in a new folder. It should say `listen = "127.0.0.1:0"` in `[http]`.
    pub fn start(config: &str, environment: &[(&str, &str)]) -> Self {
        let folder = std::env::temp_dir().join(unique("larder-it"));
        std::fs::create_dir(&folder).expect("make a folder for the daemon");
        std::fs::write(folder.join("larder.toml"), config).expect("write the configuration");
        let environment: Vec<_> = environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let (child, lines) = spawn(&folder, &environment);
        Self { folder, environment, child, lines }
    }

    /// Runs it once more in the same folder, after it ended.
    pub fn start_again(&mut self) {
        self.wait_exit();
        (self.child, self.lines) = spawn(&self.folder, &self.environment);
    }

    // === how it is ===

    /// Everything this run printed so far, both streams, in order of arrival.
    pub fn log(&self) -> Vec<String> {
        self.lines.all()
    }

    /// Waits for a line that contains a text, and returns it.
    #[track_caller]
    pub fn wait_for_log(&mut self, text: &str) -> String {
        let what = format!("{text:?} in the log");
        wait_for(&what, PATIENCE, || {
            let ended = self.has_ended();
            match self.lines.all().into_iter().find(|line| line.contains(text)) {
                Some(line) => Ok(line),
                None if ended => panic!("the daemon ended before {what}:\n{}", self.lines.text()),
                None => Err(self.lines.text()),
            }
        })
    }

    /// The address its HTTP server is bound to, as the log line with the message `listening` says in its field `http`, in either
    /// format of the log.
    #[track_caller]
    pub fn address(&mut self) -> String {
        let line = self.wait_for_log("listening");
        if let Some((_, address)) = line.split_once(" http=") {
            return address.to_owned();
        }
        let line: serde_json::Value = serde_json::from_str(&line).expect("a log line of JSON");
        line["http"].as_str().expect("a field `http`").to_owned()
    }

    /// Waits until `/ready` says yes.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let address = self.address();
        wait_for("the daemon to be ready", PATIENCE, || {
            assert!(!self.has_ended(), "the daemon ended before it was ready:\n{}", self.lines.text());
            match ask(&address, "/ready") {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(answer.body),
                Err(error) => Err(error.to_string()),
            }
        });
    }

    /// GET of a path.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Answer {
        let address = self.address();
        ask(&address, path).unwrap_or_else(|error| panic!("GET {path}: {error}\n{}", self.lines.text()))
    }

    /// A request with any method and headers, without a body.
    #[track_caller]
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let address = self.address();
        request(&address, method, path, headers).unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.lines.text()))
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("look after the daemon").is_some()
    }

    // === its end ===

    /// SIGKILL; returns when it is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill the daemon");
        self.child.wait().expect("wait for the daemon's end");
    }

    /// SIGTERM; the exit code. `None`: a signal ended it.
    #[track_caller]
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.wait_exit()
    }

    /// Sends a signal by name, `STOP` and `CONT` too.
    pub fn signal(&self, name: &str) {
        // The standard library sends SIGKILL only, and calling libc is unsafe.
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status();
        assert!(status.expect("run a shell").success(), "send SIG{name} to the daemon");
    }

    /// Waits until it ends by itself; the exit code.
    #[track_caller]
    pub fn wait_exit(&mut self) -> Option<i32> {
        wait_for("the daemon to end", PATIENCE, || {
            self.child.try_wait().expect("look after the daemon").map(|status| status.code()).ok_or_else(|| self.lines.text())
        })
    }
}

impl Drop for Daemon {
    #[expect(clippy::print_stderr, reason = "the test's own output shows why it failed")]
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of the daemon in {}:\n{}", self.folder.display(), self.lines.text());
        } else {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

fn spawn(folder: &Path, environment: &[(String, String)]) -> (Child, Lines) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_larder"))
        .args(["run", "--config"])
        .arg(folder.join("larder.toml"))
        .current_dir(folder)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the daemon");
    let lines = Lines::default();
    lines.follow(child.stdout.take().expect("a piped stdout"));
    lines.follow(child.stderr.take().expect("a piped stderr"));
    (child, lines)
}

fn ask(address: &str, path: &str) -> Result<Answer, ureq::Error> {
    request(address, "GET", path, &[])
}

fn request(address: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Answer, ureq::Error> {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(10))).build().into();
    let mut request = ureq::http::Request::builder().method(method).uri(format!("http://{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = agent.run(request.body(()).map_err(ureq::Error::Http)?)?;
    let body = response.body_mut().read_to_string()?;
    Ok(Answer { status: response.status().as_u16(), headers: response.headers().clone(), body })
}

/// Lines as they come in, from threads that end with the streams they read.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn follow(&self, stream: impl Read + Send + 'static) {
        let lines = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                lines.0.lock().push(line);
            }
        });
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    fn text(&self) -> String {
        self.all().join("\n")
    }
}
