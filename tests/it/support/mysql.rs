//! A real MySQL, or MariaDB.

use std::sync::LazyLock;
use std::time::Duration;

use mysql_async::prelude::{FromRow, Queryable as _};
use mysql_async::{Conn, OptsBuilder};
use testcontainers::ImageExt as _;

use super::container::{self, Container};
use super::{block_on, unique, wait_for};

/// As a capture wants its server. What a test adds stands after them and wins.
const ARGUMENTS: &[&str] = &[
    "--server-id=1",
    "--log-bin=binlog",
    "--gtid-mode=ON",
    "--enforce-gtid-consistency=ON",
    "--binlog-row-image=FULL",
    "--binlog-row-metadata=FULL",
    "--bind-address=0.0.0.0",
    "--mysqlx=OFF",
    "--local-infile=ON",
    // Tests kill servers, never the machine: what the kernel has is safe.
    "--sync-binlog=0",
    "--innodb-flush-log-at-trx-commit=2",
];

/// The same for MariaDB, as far as its defaults are others.
const ARGUMENTS_OF_MARIADB: &[&str] = &[
    "--server-id=1",
    "--log-bin=binlog",
    "--binlog-format=ROW",
    "--binlog-row-metadata=FULL",
    "--bind-address=0.0.0.0",
    "--sync-binlog=0",
    "--innodb-flush-log-at-trx-commit=2",
];

const ROOT_PASSWORD: &str = "root of the tests";

/// Has the rights that docker/larder.toml asks for, and no more.
pub const USER: &str = "larder";
pub const PASSWORD: &str = "larder's password";

pub struct Mysql {
    container: Container,
    /// `host:port`.
    pub address: String,
}

impl Mysql {
    /// The server that all tests of the process share, with GTIDs and full metadata. Its logs hold the changes of other tests.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Mysql> = LazyLock::new(|| Mysql::start(&[]));
        &SHARED
    }

    /// A server of one's own, with further arguments of `mysqld`; removed on drop. Some seconds.
    pub fn start(arguments: &[&str]) -> Self {
        let image = container::image("LARDER_TEST_MYSQL_IMAGE", "mysql:8.4");
        Self::start_image("mysql", &image, &[ARGUMENTS, arguments].concat())
    }

    /// The MariaDB that all tests of the process share, with full metadata.
    pub fn shared_mariadb() -> &'static Self {
        static SHARED: LazyLock<Mysql> = LazyLock::new(|| Mysql::start_mariadb(&[]));
        &SHARED
    }

    /// A MariaDB of one's own, with further arguments of `mariadbd`; removed on drop.
    pub fn start_mariadb(arguments: &[&str]) -> Self {
        let image = container::image("LARDER_TEST_MARIADB_IMAGE", "mariadb:10.11");
        Self::start_image("mariadb", &image, &[ARGUMENTS_OF_MARIADB, arguments].concat())
    }

    fn start_image(role: &str, image: &str, arguments: &[&str]) -> Self {
        let container = Container::start(role, image, 3306, |request, _| {
            request.with_env_var("MYSQL_ROOT_PASSWORD", ROOT_PASSWORD).with_cmd(arguments.iter().copied())
        });
        let mysql = Self { address: format!("127.0.0.1:{}", container.port), container };
        mysql.wait_ready();
        // Outside the binlog, so that a test finds there only its own changes.
        mysql.exec(&format!(
            r#"set sql_log_bin = 0;
            create user {USER} identified by "{PASSWORD}";
            grant select, replication slave, replication client on *.* to {USER};"#
        ));
        mysql
    }

    pub fn wait_ready(&self) {
        wait_for("MySQL to answer", Duration::from_secs(120), || {
            if !self.container.is_running() {
                return Err(format!("its container ended: {}", self.container.log_tail()));
            }
            block_on(async {
                let mut connection = Conn::new(self.root()).await.map_err(|error| error.to_string())?;
                connection.ping().await.map_err(|error| error.to_string())?;
                connection.disconnect().await.map_err(|error| error.to_string())
            })
        });
    }

    /// SIGKILL.
    pub fn kill(&self) {
        self.container.kill();
    }

    /// Starts a killed server again, at the same address, and waits until it answers.
    pub fn restart(&self) {
        self.container.restart();
        self.wait_ready();
    }

    /// Makes this server a replica of another one, by GTID; it can be written to all the same.
    pub fn replicate(&self, source: &Self) {
        source.exec(&format!(
            r#"set sql_log_bin = 0; create user if not exists replica identified by "{PASSWORD}"; grant replication slave on *.* to replica"#
        ));
        self.exec(&format!(
            r#"change replication source to source_host = "{}", source_port = 3306, source_user = "replica", source_password = "{PASSWORD}",
               source_auto_position = 1, get_source_public_key = 1, source_connect_retry = 1; start replica"#,
            source.container.inner_address()
        ));
    }

    /// The same between two MariaDBs.
    pub fn replicate_mariadb(&self, source: &Self) {
        source.exec(&format!(
            "set sql_log_bin = 0; create user if not exists replica identified by \"{PASSWORD}\"; grant replication slave on *.* to replica"
        ));
        self.exec(&format!(
            "change master to master_host = \"{}\", master_port = 3306, master_user = \"replica\", master_password = \"{PASSWORD}\", \
             master_use_gtid = slave_pos, master_connect_retry = 1; start slave",
            source.container.inner_address()
        ));
    }

    /// Waits until this server has executed all that another one has.
    #[track_caller]
    pub fn wait_caught_up(&self, source: &Self) {
        let executed: Vec<String> = source.rows("select @@global.gtid_executed");
        let done: Vec<Option<u8>> = self.rows(&format!("select wait_for_executed_gtid_set('{}', 30)", executed[0].replace('\n', "")));
        assert_eq!(
            done,
            [Some(0)],
            "{:?}",
            self.rows::<String>("select concat(last_error_message, channel_name) from performance_schema.replication_connection_status")
        );
    }

    /// Connections that read the binlog.
    pub fn dumps(&self) -> Vec<u64> {
        self.rows("select id from information_schema.processlist where command like 'Binlog Dump%'")
    }

    /// Makes a database of a name nobody else uses.
    pub fn database(&self, prefix: &str) -> String {
        let name = unique(prefix);
        self.exec(&format!("create database {name}"));
        name
    }

    /// Runs statements separated by `;` as root, in a session of their own.
    #[track_caller]
    pub fn exec(&self, sql: &str) {
        self.session().exec(sql);
    }

    /// The rows of one statement, as root.
    #[track_caller]
    pub fn rows<T: FromRow + Send + 'static>(&self, sql: &str) -> Vec<T> {
        self.session().rows(sql)
    }

    /// A session as root that stays open: for transactions and session variables.
    #[track_caller]
    pub fn session(&self) -> Session {
        Session::open(self.root())
    }

    /// Connection options of root, who may do everything.
    pub fn root(&self) -> OptsBuilder {
        self.options("root", ROOT_PASSWORD)
    }

    /// Connection options of the user Larder connects as, who has the documented rights only.
    pub fn user(&self) -> OptsBuilder {
        self.options(USER, PASSWORD)
    }

    fn options(&self, user: &str, password: &str) -> OptsBuilder {
        OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.container.port)
            .user(Some(user))
            .pass(Some(password))
            // Else the client follows the server's word to a socket file, which lies inside the container.
            .prefer_socket(false)
    }

    /// The section `[mysql]` of a configuration that captures from this server.
    pub fn config(&self) -> String {
        self.config_at(&self.address)
    }

    /// The same by way of another address: a proxy's.
    pub fn config_at(&self, address: &str) -> String {
        format!("[mysql]\naddress = \"{address}\"\nuser = \"{USER}\"\npassword = \"{PASSWORD}\"\ntls = \"disabled\"\n")
    }
}

pub struct Session {
    connection: Conn,
}

impl Session {
    #[track_caller]
    pub fn open(options: OptsBuilder) -> Self {
        let connection = block_on(Conn::new(options)).unwrap_or_else(|error| panic!("connect to MySQL: {error}"));
        Self { connection }
    }

    #[track_caller]
    pub fn exec(&mut self, sql: &str) {
        block_on(self.connection.query_drop(sql)).unwrap_or_else(|error| panic!("{error}\nin: {sql}"));
    }

    #[track_caller]
    pub fn rows<T: FromRow + Send + 'static>(&mut self, sql: &str) -> Vec<T> {
        block_on(self.connection.query(sql)).unwrap_or_else(|error| panic!("{error}\nin: {sql}"))
    }
}
