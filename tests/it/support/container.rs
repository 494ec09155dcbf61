//! One server in one container, on a host port that stays the same over a restart.
//!
//! Removal does not rely on this process ending well: a shell started beside it holds the other end of a pipe, and removes the
//! containers that carry our label when the pipe closes, which the kernel sees to even on SIGKILL. (testcontainers' own
//! watchdog knows signals but no SIGKILL, and Ryuk is one more image to pull.)

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use testcontainers::core::IntoContainerPort as _;
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt as _};

use super::{block_on, unique};

/// Its value is the id of the process the container belongs to.
const LABEL: &str = "larder-test.pid";

/// `$1`: label, `$2`: id of the process watched over. Removes at once what dead processes left behind, and at the end of the input
/// what this one has.
const GUARD: &str = r#"
docker ps --all --filter "label=$1" --format "{{.ID}} {{.Label \"$1\"}}" | while read -r container owner; do
    kill -0 "$owner" || docker rm --force --volumes "$container"
done
read -r end
docker ps --all --quiet --filter "label=$1=$2" | xargs --no-run-if-empty docker rm --force --volumes
"#;

pub struct Container {
    inner: Option<ContainerAsync<GenericImage>>,
    /// On the loopback address of the host.
    pub port: u16,
}

impl Container {
    /// Starts `image` (`name:tag`) with its port `inner_port` at a free port of the host, which `configure` is told. Does not wait until
    /// the server is ready.
    pub fn start(
        role: &str,
        image: &str,
        inner_port: u16,
        mut configure: impl FnMut(ContainerRequest<GenericImage>, u16) -> ContainerRequest<GenericImage>,
    ) -> Self {
        watch_over_containers();
        let (name, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
        let mut attempts = 0;
        loop {
            attempts += 1;
            let port = free_port();
            let request = GenericImage::new(name, tag)
                .with_mapped_port(port, inner_port.tcp())
                .with_host_config_modifier(|host| {
                    for binding in host.port_bindings.iter_mut().flat_map(|ports| ports.values_mut()).flatten().flatten() {
                        binding.host_ip = Some("127.0.0.1".to_owned());
                    }
                })
                .with_container_name(unique(&format!("larder-it-{role}")))
                .with_label(LABEL, std::process::id().to_string());
            match block_on(configure(request, port).start()) {
                Ok(container) => return Self { inner: Some(container), port },
                // Between choosing a port and using it somebody else may take it.
                Err(error) if attempts < 5 && error.to_string().contains("already") => {}
                Err(error) => panic!("start {role} from image {image} (`make setup` prepares engine and images): {error}"),
            }
        }
    }

    fn inner(&self) -> &ContainerAsync<GenericImage> {
        self.inner.as_ref().expect("the container is there until drop")
    }

    /// Ends the server as a power cut would: SIGKILL, nothing flushed or said.
    pub fn kill(&self) {
        docker(&["kill", self.inner().id()]);
    }

    /// Freezes the server: connections stay, nobody answers.
    pub fn pause(&self) {
        docker(&["pause", self.inner().id()]);
    }

    pub fn unpause(&self) {
        docker(&["unpause", self.inner().id()]);
    }

    /// Starts the server again, with the data and at the port it had.
    pub fn restart(&self) {
        block_on(self.inner().start()).expect("start the container again");
    }

    /// Its address among the containers.
    pub fn inner_address(&self) -> String {
        docker(&["inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", self.inner().id()]).trim().to_owned()
    }

    pub fn is_running(&self) -> bool {
        block_on(self.inner().is_running()).unwrap_or(false)
    }

    /// The end of what the server printed, for messages about its failure.
    pub fn log_tail(&self) -> String {
        docker(&["logs", "--tail", "30", self.inner().id()])
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Some(container) = self.inner.take() {
            // A failure is not worth a panic in drop: the guard removes what is left.
            let _ = block_on(container.rm());
        }
    }
}

/// The image that a variable names, in the environment or in what `make setup` wrote down, else the official one.
pub fn image(variable: &str, official: &str) -> String {
    std::env::var(variable).ok().or_else(|| prepared(variable)).unwrap_or_else(|| official.to_owned())
}

fn prepared(variable: &str) -> Option<String> {
    let home = || std::env::var_os("HOME").map(PathBuf::from);
    let cache = std::env::var_os("LARDER_CACHE")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("XDG_CACHE_HOME").map(|cache| PathBuf::from(cache).join("larder")))
        .or_else(|| home().map(|home| home.join(".cache/larder")))?;
    let text = std::fs::read_to_string(cache.join("test.env")).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(variable)?.strip_prefix('=')?.to_owned()))
}

/// A port nobody listens on, below the range from which the kernel gives out ports by itself.
pub fn free_port() -> u16 {
    /// How many have been tried; processes start at different ones.
    static TRIED: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(61).wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(15_000 + number % 17_000).expect("below 32,000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().expect("run the docker command");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {arguments:?}: {text}");
    text
}

fn watch_over_containers() {
    static GUARDIAN: OnceLock<Child> = OnceLock::new();
    GUARDIAN.get_or_init(|| {
        Command::new("sh")
            .args(["-c", GUARD, "guard", LABEL, &std::process::id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C at the terminal must not end it before us.
            .process_group(0)
            .spawn()
            .expect("start the shell that removes containers")
    });
}
