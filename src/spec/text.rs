//! Texts of a spec that have a form of their own: durations, sizes, money, paths, names.
//!
//! Each form is one function, used by the walk for its complaint and by serde for the value, so that they agree.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use super::cross::contains;
use super::env::{check_env, is_variable};
use super::model::{Name, TEMPORARY};
use crate::provider::Money;

/// What is wrong with a text, and what would be right.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Wrong {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Name of the schema keyword that says which check a text has to pass; it is not in the published schema.
pub(super) const CHECK: &str = "x-lane-check";

macro_rules! texts {
    ($($(#[doc = $doc:literal])+ $name:ident($inner:ty), $check:literal, $parse:path, $pattern:literal, [$($example:literal),*];)+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub(super) struct $name(pub(super) $inner);

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    let text = String::deserialize(deserializer)?;
                    $parse(&text).map(Self).map_err(|wrong| serde::de::Error::custom(wrong.message))
                }
            }

            impl JsonSchema for $name {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> std::borrow::Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    let examples: &[&str] = &[$($example),*];
                    let mut schema = json_schema!({
                        "type": "string",
                        "description": concat!($($doc, "\n"),+).trim(),
                        "pattern": $pattern,
                    });
                    schema.insert(CHECK.to_owned(), $check.into());
                    if !examples.is_empty() {
                        schema.insert("examples".to_owned(), examples.into());
                    }
                    schema
                }
            }
        )+

        /// Runs the check of this name; what has none may hold anything that a terminal does not obey.
        pub(super) fn check(name: &str, text: &str) -> Result<(), Wrong> {
            match name {
                $($check => $parse(text).map(drop),)+
                // A provider's own key says no form.
                _ => plain(text),
            }
        }
    };
}

texts! {
    /// A name: a-z, 0-9, `.`, `_` and `-`; letters or digits at both ends; at most 63 characters.
    NameText(Name), "name", name, r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$", ["mvmd"];
    /// A systemd unit's name without `.service`.
    ServiceName(Name), "service-name", service_name, r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$", ["mvmd-agent"];
    /// A length of time, longer than nothing: `2h30m`, `90s`.
    Limit(Duration), "limit", limit, r"^(\d+d)?(\d+h)?(\d+m)?(\d+s)?$", ["2h30m", "90s"];
    /// A length of time: `2h30m`, `90s`, `0s`.
    Period(Duration), "period", period, r"^(\d+d)?(\d+h)?(\d+m)?(\d+s)?$", ["2s"];
    /// A size: `50 GB` (thousands) or `50 GiB` (1024s).
    Size(u64), "size", size, r"^\d+ ?[MGT]i?B$", ["50 GB"];
    /// An amount of money with its currency: `3 USD`, `0.50 EUR`.
    Amount(Money), "amount", amount, r"^\d+(\.\d{1,6})? ?[A-Z]{3}$", ["3 USD"];
    /// Octal permission bits.
    FileMode(u32), "file-mode", file_mode, r"^[0-7]{3,4}$", ["0640"];
    /// `user` or `user:group`.
    Owner(String), "owner", owner, r"^[a-z_][a-z0-9_-]{0,31}(:[a-z_][a-z0-9_-]{0,31})?$", ["root:mvmd"];
    /// The name of a login user that `lane` makes; not root.
    UserName(String), "user-name", user_name, r"^[a-z_][a-z0-9_-]{0,31}$", ["mvm"];
    /// A network in CIDR form.
    Cidr(String), "cidr", cidr, r"^[0-9a-fA-F.:]+/\d{1,3}$", ["203.0.113.7/32"];
    /// One public key, as in `~/.ssh/id_ed25519.pub`.
    PublicKey(String), "public-key", public_key, r"^(ssh|ecdsa|sk)-\S+ \S+( [^\n]*)?$", [];
    /// An absolute path on the host, without `..`.
    HostPath(String), "host-path", host_path, r"^/[^\n]*[^/\n]$", ["/usr/local/bin/mvmd"];
    /// A path relative to where the command runs, without `..`.
    OutputPath(String), "output-path", output_path, r"^[^/\n][^\n]*$", ["target/release/mvmd"];
    /// A path on this machine; `~` is your home, anything else is relative to the spec's folder.
    LocalPath(String), "local-path", line, r"^[^\n]+$", ["~/mvmd"];
    /// A pattern as in `.gitignore`.
    Pattern(String), "pattern", pattern, r"^[^\n]+$", ["*.log"];
    /// A text that is not empty.
    Block(String), "block", block, r"^[\s\S]+$", [];
    /// A word without spaces.
    Word(String), "word", word, r"^\S+$", [];
    /// The name of an environment variable.
    VarName(String), "var-name", var_name, r"^[A-Za-z_][A-Za-z0-9_]*$", ["RUST_LOG"];
    /// A value; `${env:NAME}` is taken from this machine at the last moment and never written down.
    VarValue(String), "var-value", var_value, r"^[\s\S]*$", ["${env:API_TOKEN}"];
    /// An `http://` or `https://` address, as seen from the host.
    Url(String), "url", url, r"^https?://\S+$", ["http://127.0.0.1:8080/healthz"];
    /// `host:port`, as seen from the host.
    SocketAddress(String), "socket-address", socket_address, r"^\S+:\d{1,5}$", ["127.0.0.1:8080"];
}

macro_rules! ordered {
    ($($name:ident),+) => {
        $(
            impl PartialOrd for $name {
                fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                    Some(self.cmp(other))
                }
            }
            impl Ord for $name {
                fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                    self.0.cmp(&other.0)
                }
            }
        )+
    };
}
ordered!(NameText, ServiceName, VarName, HostPath, OutputPath);

fn plain(text: &str) -> Result<(), Wrong> {
    if text.chars().any(char::is_control) {
        return Err(Wrong::new("holds a line break or a control character"));
    }
    Ok(())
}

fn name(text: &str) -> Result<Name, Wrong> {
    Name::new(text).map_err(Wrong::new)
}

fn service_name(text: &str) -> Result<Name, Wrong> {
    if let Some(stem) = text.strip_suffix(".service") {
        return Err(Wrong::new("a service is named without `.service`").help(format!("write `{stem}`")));
    }
    if text.starts_with("lane-") {
        return Err(Wrong::new("units called `lane-…` are lane's own").help("take another name"));
    }
    name(text)
}

fn period(text: &str) -> Result<Duration, Wrong> {
    const YEAR: u64 = 365 * 24 * 3600;
    let wrong = || Wrong::new(format!("`{text}` is no duration")).help("write it as `2h30m`, `20m` or `90s`");
    let (mut rest, mut seconds) = (text, 0u64);
    for (unit, factor) in [('d', 86400), ('h', 3600), ('m', 60), ('s', 1)] {
        let Some((digits, tail)) = rest.split_once(unit) else { continue };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let part = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(factor));
        seconds = part.and_then(|part| seconds.checked_add(part)).unwrap_or(u64::MAX);
        rest = tail;
    }
    if text.is_empty() || !rest.is_empty() {
        return Err(wrong());
    }
    if seconds > YEAR {
        return Err(Wrong::new(format!("`{text}` is longer than 365 days")));
    }
    Ok(Duration::from_secs(seconds))
}

fn limit(text: &str) -> Result<Duration, Wrong> {
    period(text).and_then(|limit| {
        if limit.is_zero() { Err(Wrong::new("has to be longer than nothing")) } else { Ok(limit) }
    })
}

fn size(text: &str) -> Result<u64, Wrong> {
    let wrong = || Wrong::new(format!("`{text}` is no size")).help("write it as `50 GB` or `50 GiB`");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (digits, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
    let factor: u64 = match unit.strip_prefix(' ').unwrap_or(unit) {
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(wrong()),
    };
    let size = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(factor)).ok_or_else(wrong)?;
    if size == 0 { Err(Wrong::new("has to be more than nothing")) } else { Ok(size) }
}

fn amount(text: &str) -> Result<Money, Wrong> {
    let wrong =
        || Wrong::new(format!("`{text}` is no amount of money")).help("write it as `3 USD` or `0.50 EUR`");
    let split = text.len().checked_sub(3).ok_or_else(wrong)?;
    let (number, currency) = text.split_at_checked(split).ok_or_else(wrong)?;
    let number = number.strip_suffix(' ').unwrap_or(number);
    let (whole, fraction) = number.split_once('.').map_or((number, None), |(w, f)| (w, Some(f)));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !currency.bytes().all(|b| b.is_ascii_uppercase())
        || !digits(whole)
        || !fraction.is_none_or(|fraction| digits(fraction) && fraction.len() <= 6)
    {
        return Err(wrong());
    }
    let micros = format!("{:0<6}", fraction.unwrap_or("")).parse::<u64>().map_err(|_| wrong())?;
    let whole = whole.parse::<u64>().ok().and_then(|whole| whole.checked_mul(1_000_000)).ok_or_else(wrong)?;
    let micros = whole.checked_add(micros).ok_or_else(wrong)?;
    Ok(Money { micros, currency: currency.to_owned() })
}

fn file_mode(text: &str) -> Result<u32, Wrong> {
    let octal = matches!(text.len(), 3 | 4) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = if octal { u32::from_str_radix(text, 8).ok() } else { None };
    mode.ok_or_else(|| {
        Wrong::new(format!("`{text}` are no octal permission bits")).help("write them as \"0640\"")
    })
}

fn is_account(text: &str) -> bool {
    text.len() <= 32
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'))
}

fn owner(text: &str) -> Result<String, Wrong> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    if is_account(user) && group.is_none_or(is_account) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(format!("`{text}` is no owner")).help("write `user` or `user:group`"))
}

fn user_name(text: &str) -> Result<String, Wrong> {
    if text == "root" {
        let wrong = Wrong::new("`lane` never logs in as root, and clouds differ in whether anyone may");
        return Err(wrong.help("name any other user; it may use sudo"));
    }
    if is_account(text) {
        return Ok(text.to_owned());
    }
    let wrong = Wrong::new(format!("`{text}` cannot be a user's name"));
    Err(wrong.help("start with a-z or `_`, go on with a-z, 0-9, `_` and `-`; at most 32 characters"))
}

fn cidr(text: &str) -> Result<String, Wrong> {
    let wrong = || Wrong::new(format!("`{text}` is no network")).help("write it as `203.0.113.0/24`");
    let Some((address, length)) = text.split_once('/') else {
        let address: IpAddr = text.parse().map_err(|_| wrong())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        return Err(
            Wrong::new(format!("`{text}` has no prefix length")).help(format!("write `{text}/{bits}`"))
        );
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let length: u32 = length
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| length.parse().ok())
        .flatten()
        .ok_or_else(wrong)?;
    let network: Option<IpAddr> = match address {
        IpAddr::V4(v4) if length <= 32 => {
            Some(IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(32 - length).unwrap_or(0)).into()))
        }
        IpAddr::V6(v6) if length <= 128 => {
            Some(IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(128 - length).unwrap_or(0)).into()))
        }
        _ => None,
    };
    let network = network.ok_or_else(wrong)?;
    if network == address {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(format!("`{text}` has bits beyond its prefix"))
        .help(format!("did you mean `{network}/{length}`?")))
}

fn public_key(text: &str) -> Result<String, Wrong> {
    if text.contains("PRIVATE KEY") {
        return Err(Wrong::new("this is a private key")
            .help("give the public one, and make a new pair: this one has been in a file"));
    }
    let wrong = || Wrong::new("not a public key").help("give one line, as in `~/.ssh/id_ed25519.pub`");
    let mut words = text.split(' ');
    let (kind, body) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let known = ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| kind.starts_with(prefix));
    let decoded = base64::engine::general_purpose::STANDARD.decode(body).is_ok_and(|bytes| bytes.len() > 16);
    if known && decoded && !text.chars().any(char::is_control) { Ok(text.to_owned()) } else { Err(wrong()) }
}

fn path_form(text: &str) -> Result<(), Wrong> {
    // With room for what is put behind a name while a file is written (NAME_MAX is 255, PATH_MAX 4096).
    if text.len() > 4000 || text.split('/').any(|part| part.len() > 240) {
        return Err(Wrong::new("a path has at most 4000 bytes, and 240 between two `/`"));
    }
    if text.ends_with(TEMPORARY) {
        return Err(
            Wrong::new(format!("names that end with `{TEMPORARY}` are lane's own")).help("take another name")
        );
    }
    if text.chars().any(char::is_control) {
        return Err(Wrong::new("a path holds no line break and no control character"));
    }
    if text.split('/').any(|part| part == ".." || part == ".") || text.contains("//") {
        return Err(
            Wrong::new(format!("`{text}` holds `.`, `..` or `//`")).help("write the path as it ends up")
        );
    }
    if text.len() > 1 && text.ends_with('/') {
        return Err(Wrong::new(format!("`{text}` ends with `/`")).help("leave the last `/` off"));
    }
    Ok(())
}

fn host_path(text: &str) -> Result<String, Wrong> {
    if !text.starts_with('/') {
        let wrong = Wrong::new(format!("`{text}` is not an absolute path"));
        return Err(wrong.help("a path on the host starts with `/`"));
    }
    if text == "/" {
        return Err(Wrong::new("`/` is the whole host").help("name a file or a folder in it"));
    }
    if let Some(own) = ["/var/lib/lane", "/etc/lane", "/run/lane"].into_iter().find(|own| contains(own, text))
    {
        return Err(Wrong::new(format!("`{own}` is lane's own folder")).help("take another path"));
    }
    path_form(text).map(|()| text.to_owned())
}

fn output_path(text: &str) -> Result<String, Wrong> {
    if text.is_empty() || text.starts_with(['/', '~']) {
        let wrong = Wrong::new(format!("`{text}` is not a relative path"));
        return Err(wrong.help("it is taken from where the command runs: `target/release/mvmd`"));
    }
    path_form(text).map(|()| text.to_owned())
}

fn line(text: &str) -> Result<String, Wrong> {
    if text.is_empty() {
        return Err(Wrong::new("is empty"));
    }
    plain(text).map(|()| text.to_owned())
}

/// What one argument or one variable on the host may hold; Linux takes 128 KiB with the variable's name.
fn carried(text: &str) -> Result<String, Wrong> {
    if text.contains('\0') {
        return Err(Wrong::new("holds a NUL character"));
    }
    if text.len() > 120_000 {
        return Err(Wrong::new("is longer than 120 kB").help("put it into a file of a source"));
    }
    Ok(text.to_owned())
}

fn pattern(text: &str) -> Result<String, Wrong> {
    // A reader of patterns takes blanks at the end away, all but an escaped space.
    if text.ends_with(char::is_whitespace) && !text.ends_with("\\ ") {
        return Err(
            Wrong::new("ends with a blank").help("take it away, or write `\\ ` for a space that counts")
        );
    }
    line(text)
}

fn block(text: &str) -> Result<String, Wrong> {
    if text.trim().is_empty() {
        return Err(Wrong::new("is empty"));
    }
    carried(text)
}

fn word(text: &str) -> Result<String, Wrong> {
    if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Wrong::new(format!("`{text}` is not one word")));
    }
    Ok(text.to_owned())
}

fn var_name(text: &str) -> Result<String, Wrong> {
    // dash and bash set these themselves, or refuse to have them set.
    const OF_SHELLS: [&str; 8] =
        ["_", "BASHOPTS", "BASH_VERSINFO", "EUID", "OPTIND", "PPID", "SHELLOPTS", "UID"];
    if OF_SHELLS.contains(&text) {
        return Err(
            Wrong::new(format!("`{text}` is a variable of the shell itself")).help("take another name")
        );
    }
    if is_variable(text) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(format!("`{text}` cannot be a variable's name"))
        .help("a-z, A-Z, 0-9 and `_`, no digit first"))
}

fn var_value(text: &str) -> Result<String, Wrong> {
    check_env(text).map_err(|message| {
        Wrong::new(message).help("write `${env:NAME}`, or `$${env:` for the text itself")
    })?;
    carried(text)
}

fn url(text: &str) -> Result<String, Wrong> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    if host.contains('@') {
        let wrong = Wrong::new("holds a user's name or password, which the probe would not send");
        return Err(wrong.help("ask by a `command` probe with `env`"));
    }
    let end = host.rfind(']').map_or(0, |at| at + 1);
    let (name, port) = match host.get(end..).and_then(|rest| rest.rfind(':')) {
        Some(colon) => host.split_at(end + colon),
        None => (host, ""),
    };
    let good = is_host(name)
        && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
        && !text.chars().any(|c| c.is_whitespace() || c.is_control());
    if good {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(format!("`{text}` is no web address")).help("write it as `http://127.0.0.1:8080/healthz`"))
}

/// A name in ASCII, as resolvers take it, or an address; one of IPv6 stands in brackets.
fn is_host(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            (1..=253).contains(&text.len())
                && text.split('.').all(|label| (1..=63).contains(&label.len()))
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        }
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

fn socket_address(text: &str) -> Result<String, Wrong> {
    if text.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && is_port(port)) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(format!("`{text}` is no `host:port`")).help("write it as `127.0.0.1:8080`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let seconds = |text| period(text).map(|d| d.as_secs()).ok();
        assert_eq!(seconds("2h30m"), Some(9000));
        assert_eq!(seconds("1d2h3m4s"), Some(93784));
        assert_eq!(seconds("90s"), Some(90));
        assert_eq!(seconds("0s"), Some(0));
        for bad in [
            "",
            "2",
            "h",
            "2h 30m",
            "30m2h",
            "2h2h",
            "-2h",
            "+2h",
            "1.5h",
            "2H",
            "366d",
            "99999999999999999999s",
            "2h30",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
        assert!(limit("0s").is_err());
    }

    #[test]
    fn sizes_and_money() {
        assert_eq!(size("50 GB").ok(), Some(50_000_000_000));
        assert_eq!(size("50GiB").ok(), Some(50 << 30));
        for bad in ["", "50", "GB", "50 gb", "0 GB", "1.5 GB", "99999999999 TB", "50  GB", "-1 GB", "５0 GB"]
        {
            assert!(size(bad).is_err(), "{bad}");
        }
        let micros = |text| amount(text).ok().map(|money| (money.micros, money.currency));
        assert_eq!(micros("3 USD"), Some((3_000_000, "USD".to_owned())));
        assert_eq!(micros("0.5EUR"), Some((500_000, "EUR".to_owned())));
        assert_eq!(micros("1.000001 CHF"), Some((1_000_001, "CHF".to_owned())));
        for bad in [
            "",
            "3",
            "$3",
            "USD",
            "3 usd",
            "3. USD",
            ".5 USD",
            "-3 USD",
            "3,5 USD",
            "1.0000001 USD",
            "€€",
            "99999999999999999 USD",
        ] {
            assert_eq!(micros(bad), None, "{bad}");
        }
    }

    #[test]
    fn networks() {
        for good in ["10.0.0.0/8", "0.0.0.0/0", "203.0.113.7/32", "2001:db8::/32", "::/0"] {
            assert!(cidr(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0/8",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "::1/129",
            "x/8",
        ] {
            assert!(cidr(bad).is_err(), "{bad}");
        }
        assert_eq!(cidr("10.1.2.3/8").unwrap_err().help.unwrap(), "did you mean `10.0.0.0/8`?");
        assert_eq!(cidr("::1").unwrap_err().help.unwrap(), "write `::1/128`");
    }

    #[test]
    fn paths_on_the_host() {
        for bad in ["", "/", "a", "/a/../b", "/a/./b", "/a//b", "/a/", "~/a", "/a\nb", "/a\0"] {
            assert!(host_path(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "/a", "~/a", "../a", "a/../b", "a\n"] {
            assert!(output_path(bad).is_err(), "{bad:?}");
        }
        assert!(host_path("/home/mvm/a b").is_ok() && output_path("target/release/x..y").is_ok());
    }

    #[test]
    fn keys_users_owners_modes() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl name@example.com";
        assert!(public_key(key).is_ok());
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 !!!",
            &format!("{key}\n{key}"),
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            &format!("command=\"x\" {key}"),
        ] {
            assert!(public_key(bad).is_err(), "{bad}");
        }
        for bad in ["", "root", "Mvm", "0a", "-a", "a b", "a:b", &"a".repeat(33)] {
            assert!(user_name(bad).is_err(), "{bad}");
        }
        assert!(
            owner("root").is_ok()
                && owner("root:mvmd").is_ok()
                && owner("root:").is_err()
                && owner("a:b:c").is_err()
        );
        assert_eq!((file_mode("0640").ok(), file_mode("755").ok()), (Some(0o640), Some(0o755)));
        assert!(file_mode("0o640").is_err() && file_mode("0680").is_err() && file_mode("+640").is_err());
    }
}
