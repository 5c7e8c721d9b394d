//! Requests to a cloud's API: what may be repeated, what an answer means, what a failure leaves open. No vendor's word.
//!
//! An adapter writes each call as a [`Request`] and says, in its [`Dialect`], how its vendor words errors:
//!
//! ```ignore
//! let server = self.http.call("reading a server", Request::get(format!("{base}/servers/{id}"))).await?;
//! let made = self.http.call("creating a server", Request::post(url).json(body).once()).await?;
//! ```
//!
//! A request that is sent [`once`](Request::once) is never repeated here: where its effect is open the error is
//! [`ProviderError::Ambiguous`], and the caller settles it by looking. All others are repeated, with growing pauses, after
//! lost connections, broken answers, throttling and a cloud's own trouble.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Method;
use serde_json::Value;

use super::ProviderError;
use crate::world::{World, fs};

/// Pauses before the second and later attempts; each is shortened by up to a half, so that many do not come back at once.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(9), Duration::from_secs(20)];

/// However long a cloud asks to wait, a person waits too.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_mins(1);

/// No account has as many pages of hosts of ours.
const MOST_PAGES: usize = 1000;

/// No answer of an API that is used here comes near this size.
const LARGEST_ANSWER: usize = 64 << 20;

/// A text that no `Debug`, `Display` or serializer shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns it, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// What a request carries.
#[derive(Clone, PartialEq)]
pub enum Body {
    /// `application/json`.
    Json(Value),
    /// `application/x-www-form-urlencoded`, in order.
    Form(Vec<(String, String)>),
}

impl fmt::Debug for Body {
    /// Shows no value: among them are user-data with a private key, and proofs of who asks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(_) => f.write_str("Json(hidden)"),
            Self::Form(pairs) => {
                f.write_str("Form ")?;
                f.debug_list().entries(pairs.iter().map(|(name, _)| name)).finish()
            }
        }
    }
}

impl Body {
    /// Returns the content type and the bytes.
    pub fn encode(&self) -> (&'static str, Vec<u8>) {
        match self {
            Self::Json(value) => ("application/json", value.to_string().into_bytes()),
            Self::Form(pairs) => {
                let text = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
                ("application/x-www-form-urlencoded; charset=utf-8", text.into_bytes())
            }
        }
    }
}

/// What goes to the cloud.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: Method,
    /// Whole address, without the query.
    pub url: String,
    /// Query, in order.
    pub query: Vec<(String, String)>,
    /// If anything.
    pub body: Option<Body>,
    /// Headers beside those of the body; names in lower case. Their values may be secrets.
    pub headers: Vec<(String, Secret)>,
    once: bool,
    /// Where in the source it is made: each such place has to be seen by a reviewer.
    #[cfg(test)]
    pub(crate) made_at: &'static std::panic::Location<'static>,
}

impl Request {
    /// Makes a request.
    #[track_caller]
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        Self {
            method,
            url: url.into(),
            query: vec![],
            body: None,
            headers: vec![],
            once: false,
            #[cfg(test)]
            made_at: std::panic::Location::caller(),
        }
    }

    /// Makes a request that changes nothing.
    #[track_caller]
    pub fn get(url: impl Into<String>) -> Self {
        Self::new(Method::GET, url)
    }

    /// Makes a request that may be repeated unless it is sent [`once`](Self::once).
    #[track_caller]
    pub fn post(url: impl Into<String>) -> Self {
        Self::new(Method::POST, url)
    }

    /// Makes a request that deletes, which may be repeated: gone is gone.
    #[track_caller]
    pub fn delete(url: impl Into<String>) -> Self {
        Self::new(Method::DELETE, url)
    }

    /// Turns it into another method's.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Adds a pair to the query.
    #[must_use]
    pub fn query(mut self, name: &str, value: impl Into<String>) -> Self {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn json(mut self, body: Value) -> Self {
        self.body = Some(Body::Json(body));
        self
    }

    /// Sets the body to a form.
    #[must_use]
    pub fn form(mut self, pairs: Vec<(String, String)>) -> Self {
        self.body = Some(Body::Form(pairs));
        self
    }

    /// Adds a header; the name is in lower case.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), Secret::new(value)));
        self
    }

    /// Returns a value of the query or of a form.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let form = match &self.body {
            Some(Body::Form(pairs)) => pairs.as_slice(),
            _ => &[],
        };
        self.query.iter().chain(form).find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Sends it at most once, whatever comes of it.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// Makes an answer of JSON, for emulators.
    pub fn json(status: u16, body: &Value) -> Self {
        Self { status, headers: vec![], body: body.to_string().into_bytes() }
    }

    /// Returns a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Seconds, or a date (RFC 9110, section 10.2.3), which is taken from the cloud's own `Date`.
    fn retry_after(&self) -> Option<Duration> {
        let asked = self.header("retry-after")?.trim();
        if let Ok(seconds) = asked.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let read = |text: &str| jiff::fmt::rfc2822::parse(text).ok().map(|date| date.timestamp());
        let pause = read(asked)?.duration_since(read(self.header("date")?.trim())?);
        Some(Duration::try_from(pause).unwrap_or_default())
    }
}

/// Why no answer came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WireError {
    /// Not a byte of the request went out: no name, no connection.
    NotSent(String),
    /// Whoever answered could not show to be the cloud (TLS), so nothing was sent; asking again mends nothing.
    Untrusted(String),
    /// The request may have arrived.
    Lost(String),
}

/// Sends requests; the real one is [`Reqwest`], an emulator stands in for it in tests.
#[async_trait]
pub trait Wire: fmt::Debug + Send + Sync {
    /// Sends a request and returns the answer, whatever its status. Repeats nothing and follows no redirect.
    async fn send(&self, request: &Request) -> Result<Response, WireError>;
}

/// What a vendor's error means for whoever called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Missing, wrong or expired credentials, or a missing permission.
    Auth,
    /// There is no such thing.
    NotFound,
    /// There is one already, or it is not in the right state.
    Conflict,
    /// No room in this place now.
    Capacity,
    /// The account may not have more.
    Quota,
    /// Nothing was done; later it may be.
    Later,
    /// The request is wrong and stays so.
    Rejected,
    /// The cloud itself is in trouble: nobody can say what was done.
    Trouble,
}

/// A vendor's error, read from an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VendorError {
    /// What it means; `None` leaves it to the status.
    pub meaning: Option<Meaning>,
    /// The vendor's code.
    pub code: String,
    /// The vendor's message.
    pub message: String,
}

/// Who asks: puts the proof into a request, right before it is sent.
#[async_trait]
pub trait Credentials: fmt::Debug + Send + Sync {
    /// Adds a token or a signature. Finds and refreshes it where needed.
    async fn sign(&self, request: &mut Request) -> Result<(), ProviderError>;
}

/// A token that never changes.
#[derive(Debug)]
pub struct Bearer(pub Secret);

#[async_trait]
impl Credentials for Bearer {
    async fn sign(&self, request: &mut Request) -> Result<(), ProviderError> {
        let value = format!("Bearer {}", self.0.reveal());
        request.headers.push(("authorization".to_owned(), Secret::new(value)));
        Ok(())
    }
}

/// How requests get out.
#[derive(Debug, Clone)]
pub enum Link {
    /// Over the network.
    Network,
    /// Over something that stands in for it.
    Wire(Arc<dyn Wire>),
}

impl Link {
    /// Opens it for a provider.
    pub fn open(self, world: &World, provider: &'static str) -> Result<Arc<dyn Wire>, ProviderError> {
        match self {
            Self::Network => Ok(Arc::new(Reqwest::new(world, provider)?)),
            Self::Wire(wire) => Ok(wire),
        }
    }
}

/// How a vendor words its answers.
#[derive(Debug)]
pub struct Dialect {
    /// Provider's name.
    pub provider: &'static str,
    /// Header with the id that support asks for.
    pub request_id: &'static str,
    /// Reads the body of an answer; [`json`] for most.
    pub parse: fn(&[u8]) -> Result<Value, String>,
    /// Reads the error out of an answer whose status says that there is one; `None` where the body says nothing.
    pub read: fn(&Response) -> Option<VendorError>,
}

/// A call that did not go well.
#[derive(Debug)]
pub enum CallError {
    /// There is no such thing.
    NotFound(String),
    /// There is one already, or it is not in the right state.
    Conflict(String),
    /// Anything else.
    Provider(ProviderError),
}

impl From<CallError> for ProviderError {
    fn from(error: CallError) -> Self {
        error.refused("the provider", "a request")
    }
}

impl CallError {
    /// Makes the error of a caller for whom there is nothing that could be missing or there already.
    pub fn refused(self, provider: &'static str, operation: &'static str) -> ProviderError {
        match self {
            Self::Provider(error) => error,
            Self::NotFound(message) | Self::Conflict(message) => {
                ProviderError::Rejected { provider, operation, message }
            }
        }
    }
}

/// One cloud's API.
#[derive(Debug, Clone)]
pub struct Http {
    wire: Arc<dyn Wire>,
    dialect: &'static Dialect,
    credentials: Arc<dyn Credentials>,
}

/// Reads a body of JSON.
pub fn json(body: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(body).map_err(|error| format!("the answer is no whole JSON: {error}"))
}

/// What an attempt came to.
enum Attempt {
    Answer(Value, Vec<(String, String)>),
    /// Nobody could be reached.
    Unreached(String),
    /// A fault that repeating may mend; nothing was done.
    Later(String, Option<Duration>),
    /// A fault that repeating may mend; nobody can say what was done.
    Open(String, Option<Duration>),
    Final(CallError),
}

impl Http {
    /// Speaks a vendor's dialect over a wire.
    pub fn new(wire: Arc<dyn Wire>, dialect: &'static Dialect, credentials: Arc<dyn Credentials>) -> Self {
        Self { wire, dialect, credentials }
    }

    /// Sends a request and those for the pages after it; `next` makes a page's successor, if it has one.
    ///
    /// A page without the member that each of them `has` is somebody else's answer, a proxy's say, and no empty listing.
    pub async fn pages(
        &self,
        operation: &'static str,
        first: Request,
        has: &str,
        next: impl Fn(&Value) -> Option<Request> + Send,
    ) -> Result<Vec<Value>, CallError> {
        let mut pages = Vec::new();
        let mut request = Some(first);
        while let Some(asked) = request {
            let page = self.call(operation, asked).await;
            // A place without anything to list answers with an empty page.
            let page =
                page.map_err(|error| CallError::Provider(error.refused(self.dialect.provider, operation)))?;
            if page.get(has).is_none() {
                let provider = self.dialect.provider;
                let message = format!("the answer is no listing: it has no `{has}`");
                return Err(CallError::Provider(ProviderError::Ambiguous { provider, operation, message }));
            }
            request = next(&page);
            pages.push(page);
            // A listing that never ends proves nothing and must not be taken for one that did.
            if pages.len() > MOST_PAGES {
                let message = format!("the listing does not end after {MOST_PAGES} pages");
                let provider = self.dialect.provider;
                return Err(CallError::Provider(ProviderError::Rejected { provider, operation, message }));
            }
        }
        Ok(pages)
    }

    /// Sends a request, again where that is safe, and returns the JSON of its answer (`null` for an empty one).
    pub async fn call(&self, operation: &'static str, request: Request) -> Result<Value, CallError> {
        self.answer(operation, request).await.map(|(value, _)| value)
    }

    /// Does the same and returns the answer's headers too, with names in lower case.
    pub async fn answer(
        &self,
        operation: &'static str,
        request: Request,
    ) -> Result<(Value, Vec<(String, String)>), CallError> {
        let provider = self.dialect.provider;
        let mut pauses = PAUSES.into_iter();
        loop {
            let (message, asked, open) = match self.attempt(operation, &request).await {
                Attempt::Answer(value, headers) => return Ok((value, headers)),
                Attempt::Final(error) => return Err(error),
                // A person who is offline should not wait for long; a create may be sent again by its caller.
                Attempt::Unreached(why) if !request.once && pauses.len() <= 1 => {
                    return Err(CallError::Provider(unreachable(provider, &request.url, &why)));
                }
                Attempt::Unreached(why) => (why, None, false),
                Attempt::Later(message, asked) => (message, asked, false),
                Attempt::Open(message, asked) => (message, asked, true),
            };
            let patience = asked.is_none_or(|asked| asked <= LONGEST_PAUSE);
            let message = match asked {
                Some(asked) if !patience => format!("{message} (it asks to wait {} s)", asked.as_secs()),
                _ => message,
            };
            let Some(pause) = pauses.next().filter(|_| !request.once && patience) else {
                // Whoever sends it again does so no sooner than the cloud asks.
                tokio::time::sleep(asked.filter(|_| request.once && patience).unwrap_or_default()).await;
                return Err(CallError::Provider(if open {
                    ProviderError::Ambiguous { provider, operation, message }
                } else {
                    ProviderError::Transient { provider, operation, message }
                }));
            };
            let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            tokio::time::sleep(asked.map_or(jittered, |asked| asked.max(jittered))).await;
        }
    }

    async fn attempt(&self, operation: &'static str, request: &Request) -> Attempt {
        let mut signed = request.clone();
        match tokio::time::timeout(ATTEMPT, self.credentials.sign(&mut signed)).await {
            Ok(Ok(())) => {}
            // Nothing was sent, so asking again is always safe.
            Ok(Err(ProviderError::Transient { message, .. })) => return Attempt::Later(message, None),
            Ok(Err(error)) => return Attempt::Final(CallError::Provider(error)),
            Err(_) => {
                return Attempt::Later(format!("no credentials within {} s", ATTEMPT.as_secs()), None);
            }
        }
        let response = match tokio::time::timeout(ATTEMPT, self.wire.send(&signed)).await {
            Err(_) => return Attempt::Open(format!("no answer within {} s", ATTEMPT.as_secs()), None),
            Ok(Err(WireError::NotSent(why))) => return Attempt::Unreached(why),
            Ok(Err(WireError::Untrusted(why))) => {
                return Attempt::Final(CallError::Provider(unreachable(
                    self.dialect.provider,
                    &request.url,
                    &why,
                )));
            }
            Ok(Err(WireError::Lost(why))) => return Attempt::Open(why, None),
            Ok(Ok(response)) => response,
        };
        let asked = response.retry_after();
        if (200..300).contains(&response.status) {
            return match (self.dialect.parse)(&response.body) {
                Ok(value) => Attempt::Answer(value, response.headers),
                Err(_) if response.body.trim_ascii().is_empty() => {
                    Attempt::Answer(Value::Null, response.headers)
                }
                Err(why) => Attempt::Open(why, asked),
            };
        }
        let error = (self.dialect.read)(&response).unwrap_or_else(|| VendorError {
            meaning: None,
            code: format!("HTTP {}", response.status),
            message: excerpt(&response.body),
        });
        let id =
            response.header(self.dialect.request_id).map(|id| format!(" (request {id})")).unwrap_or_default();
        let message = format!("{}: {}{id}", error.code, error.message);
        let by_status = || match response.status {
            401 | 403 => Meaning::Auth,
            404 | 410 => Meaning::NotFound,
            409 | 412 => Meaning::Conflict,
            // The cloud stopped waiting for us; how much of the request it had, nobody knows.
            408 => Meaning::Trouble,
            429 => Meaning::Later,
            400..=499 => Meaning::Rejected,
            _ => Meaning::Trouble,
        };
        match error.meaning.unwrap_or_else(by_status) {
            Meaning::Later => Attempt::Later(message, asked),
            Meaning::Trouble => Attempt::Open(message, asked),
            meaning => Attempt::Final(self.error(operation, meaning, message)),
        }
    }

    /// Makes the error of a meaning, also of one that came inside a good answer.
    pub fn error(&self, operation: &'static str, meaning: Meaning, message: String) -> CallError {
        let provider = self.dialect.provider;
        // The kinds that say nothing about an operation tell it in their message.
        let message = match meaning {
            Meaning::Auth | Meaning::Capacity | Meaning::Quota => format!("{operation}: {message}"),
            _ => message,
        };
        CallError::Provider(match meaning {
            Meaning::NotFound => return CallError::NotFound(message),
            Meaning::Conflict => return CallError::Conflict(message),
            Meaning::Auth => ProviderError::Auth { provider, message },
            Meaning::Capacity => ProviderError::Capacity { provider, message },
            Meaning::Quota => ProviderError::Quota { provider, message },
            Meaning::Rejected => ProviderError::Rejected { provider, operation, message },
            Meaning::Later => ProviderError::Transient { provider, operation, message },
            Meaning::Trouble => ProviderError::Ambiguous { provider, operation, message },
        })
    }
}

fn unreachable(provider: &'static str, url: &str, why: &str) -> ProviderError {
    let place = url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
    ProviderError::Unavailable {
        provider,
        message: format!("{place} cannot be reached: {why}"),
        remedy: "check the network, the proxy variables (HTTPS_PROXY), the certificates (SSL_CERT_FILE) and the endpoint"
            .to_owned(),
    }
}

/// Shows the beginning of a body that is no error of the vendor's: a proxy's page, say.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() { "no message".to_owned() } else { line.chars().take(200).collect() }
}

/// Returns where a provider's API is: `LANE_<PROVIDER>_ENDPOINT`, the spec's `endpoint`, or the vendor's own address.
pub fn endpoint(world: &World, provider: &str, written: Option<&str>, vendor: &str) -> String {
    let variable = format!("LANE_{}_ENDPOINT", provider.to_ascii_uppercase());
    let chosen = world.var(&variable).or(written).unwrap_or(vendor);
    chosen.trim_end_matches('/').to_owned()
}

/// Requests over the network: rustls with ring, proxies of the environment, a company's own CA beside the usual ones.
#[derive(Debug)]
pub struct Reqwest(reqwest::Client);

impl Reqwest {
    /// Makes the client; reads the file that `SSL_CERT_FILE` names, if any.
    pub fn new(world: &World, provider: &'static str) -> Result<Self, ProviderError> {
        // The first call counts, later ones are refused: either way there is one.
        drop(rustls::crypto::ring::default_provider().install_default());
        let unavailable = |message: String, remedy: &str| ProviderError::Unavailable {
            provider,
            message,
            remedy: remedy.to_owned(),
        };
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("lane/", env!("CARGO_PKG_VERSION")))
            // A repeated or redirected create would be a second one.
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(15))
            .timeout(ATTEMPT);
        if let Some(path) = world.var("SSL_CERT_FILE") {
            let path = world.absolute(path, world.cwd());
            let wrong = |error: &dyn fmt::Display| {
                unavailable(
                    format!("{}: {error}", path.display()),
                    "SSL_CERT_FILE has to name a file of PEM certificates",
                )
            };
            let bytes = fs::read(&path).map_err(|error| wrong(&error))?;
            for certificate in reqwest::Certificate::from_pem_bundle(&bytes).map_err(|error| wrong(&error))? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let client = builder.build().map_err(|error| {
            unavailable(chain(&error), "check the proxy variables and the certificates of this machine")
        })?;
        Ok(Self(client))
    }
}

#[async_trait]
impl Wire for Reqwest {
    async fn send(&self, request: &Request) -> Result<Response, WireError> {
        let mut sent = self.0.request(request.method.clone(), &request.url).query(&request.query);
        if let Some(body) = &request.body {
            let (content_type, bytes) = body.encode();
            sent = sent.body(bytes);
            if !request.headers.iter().any(|(name, _)| name == "content-type") {
                sent = sent.header(reqwest::header::CONTENT_TYPE, content_type);
            }
        }
        for (name, value) in &request.headers {
            sent = sent.header(name, value.reveal());
        }
        let mut response = sent.send().await.map_err(|error| failed(&error))?;
        let status = response.status().as_u16();
        let text = |value: &reqwest::header::HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let headers =
            response.headers().iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| WireError::Lost(chain(&error)))? {
            body.extend_from_slice(&chunk);
            if body.len() > LARGEST_ANSWER {
                return Err(WireError::Lost(format!("the answer is larger than {LARGEST_ANSWER} bytes")));
            }
        }
        Ok(Response { status, headers, body })
    }
}

fn failed(error: &reqwest::Error) -> WireError {
    let message = chain(error);
    // rustls' words for a certificate that does not hold, and for a server that speaks no TLS.
    if error.is_connect() && ["certificate", "corrupt message"].iter().any(|word| message.contains(word)) {
        WireError::Untrusted(format!("TLS fails, so nothing was sent: {message}"))
    } else if error.is_builder() || error.is_connect() {
        WireError::NotSent(message)
    } else {
        WireError::Lost(message)
    }
}

/// Joins an error and its causes: reqwest's own text alone does not say what went wrong. No address: it may hold a query.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        let text = text.split(" for url (").next().unwrap_or_default().to_owned();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};
    use std::io::{Read, Write};
    use std::path::PathBuf;
    use std::sync::Mutex;

    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::world::SystemClock;

    /// Answers what it was given, in order, and counts.
    #[derive(Debug, Default)]
    struct Scripted(Mutex<(VecDeque<Result<Response, WireError>>, usize)>);

    #[async_trait]
    impl Wire for Scripted {
        async fn send(&self, _request: &Request) -> Result<Response, WireError> {
            let mut script = self.0.lock().unwrap();
            script.1 += 1;
            script.0.pop_front().expect("an answer")
        }
    }

    static PLAIN: Dialect = Dialect {
        provider: "example",
        request_id: "x-request-id",
        parse: json,
        read: |response| {
            let body: Value = serde_json::from_slice(&response.body).ok()?;
            let code = body["code"].as_str()?.to_owned();
            let meaning = match code.as_str() {
                "full" => Meaning::Capacity,
                "limit" => Meaning::Quota,
                "slow" => Meaning::Later,
                _ => return None,
            };
            Some(VendorError { meaning: Some(meaning), code, message: "said so".to_owned() })
        },
    };

    #[expect(clippy::unnecessary_wraps, reason = "stands in a list beside the failures")]
    fn status(status: u16, body: &str) -> Result<Response, WireError> {
        let headers = vec![("x-request-id".to_owned(), "r-1".to_owned())];
        Ok(Response { status, headers, body: body.as_bytes().to_vec() })
    }

    fn lost() -> Result<Response, WireError> {
        Err(WireError::Lost("reset".to_owned()))
    }

    fn not_sent() -> Result<Response, WireError> {
        Err(WireError::NotSent("refused".to_owned()))
    }

    async fn call(
        request: Request,
        answers: Vec<Result<Response, WireError>>,
    ) -> (Result<Value, CallError>, usize) {
        let wire = Arc::new(Scripted(Mutex::new((answers.into(), 0))));
        let http = Http::new(Arc::<Scripted>::clone(&wire), &PLAIN, Arc::new(Bearer(Secret::new("test"))));
        let called = http.call("reading", request).await;
        let sent = wire.0.lock().unwrap().1;
        (called, sent)
    }

    fn words(error: CallError) -> String {
        ProviderError::from(error).to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_nothing_is_asked_again_after_every_passing_fault() {
        for fault in
            [lost(), not_sent(), status(503, "<html>busy"), status(429, "{}"), status(200, "{\"cut\":")]
        {
            let (called, sent) = call(Request::get("x"), vec![fault.clone(), status(200, "{\"a\":1}")]).await;
            assert_eq!((called.unwrap(), sent), (json!({"a": 1}), 2), "{fault:?}");
        }
        let (called, sent) = call(Request::get("x"), vec![lost(); 5]).await;
        assert!(matches!(called, Err(CallError::Provider(ProviderError::Ambiguous { .. }))) && sent == 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_create_is_sent_once_and_what_is_open_is_called_open() {
        let once = || Request::post("x").json(json!({})).once();
        for fault in [lost(), status(500, "{}"), status(200, "{\"cut\":"), status(502, "<html>")] {
            let (called, sent) = call(once(), vec![fault.clone()]).await;
            let error = called.unwrap_err();
            assert!(
                matches!(error, CallError::Provider(ProviderError::Ambiguous { .. })),
                "{fault:?}: {error:?}"
            );
            assert_eq!(sent, 1);
        }
        for fault in [not_sent(), status(429, "{}"), status(503, "{\"code\":\"slow\"}")] {
            let (called, sent) = call(once(), vec![fault.clone()]).await;
            let error = called.unwrap_err();
            assert!(
                matches!(error, CallError::Provider(ProviderError::Transient { .. })),
                "{fault:?}: {error:?}"
            );
            assert_eq!(sent, 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_vendors_own_code_counts_more_than_the_status_and_stands_in_the_message() {
        let error = |status_code, body: &'static str| async move {
            let (called, sent) = call(Request::get("x"), vec![status(status_code, body)]).await;
            assert_eq!(sent, 1, "{body} was asked again");
            called.unwrap_err()
        };
        let full = error(500, "{\"code\":\"full\"}").await;
        assert!(matches!(full, CallError::Provider(ProviderError::Capacity { .. })));
        assert_eq!(words(full), "example: no capacity: reading: full: said so (request r-1)");
        assert!(words(error(403, "{\"code\":\"limit\"}").await).starts_with("example: over quota"));
        assert!(words(error(401, "{}").await).starts_with("example: not authorised: reading: HTTP 401"));
        assert!(matches!(error(404, "").await, CallError::NotFound(_)));
        assert!(matches!(error(409, "").await, CallError::Conflict(_)));
        assert!(
            words(error(400, "<html> a  proxy's\n page").await).contains("HTTP 400: <html> a proxy's page")
        );
    }

    /// Gives no proof at first.
    #[derive(Debug)]
    struct Moody(Mutex<VecDeque<ProviderError>>);

    #[async_trait]
    impl Credentials for Moody {
        async fn sign(&self, _request: &mut Request) -> Result<(), ProviderError> {
            self.0.lock().unwrap().pop_front().map_or(Ok(()), Err)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_moments_trouble_with_the_credentials_is_waited_out_and_a_refusal_is_not() {
        let operation = "signing in";
        let trouble =
            || ProviderError::Transient { provider: "example", operation, message: "reset".to_owned() };
        let refusal = || ProviderError::Auth { provider: "example", message: "expired".to_owned() };
        for (moods, calls, ok) in [(vec![trouble(), trouble()], 1, true), (vec![refusal()], 0, false)] {
            let wire = Arc::new(Scripted(Mutex::new((vec![status(200, "{}")].into(), 0))));
            let moody = Arc::new(Moody(Mutex::new(moods.into())));
            let called =
                Http::new(Arc::<Scripted>::clone(&wire), &PLAIN, moody).call("x", Request::get("x")).await;
            assert_eq!((called.is_ok(), wire.0.lock().unwrap().1), (ok, calls));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_pause_is_left_to_people_and_a_create_is_sent_again_no_sooner_than_asked() {
        let after = |seconds: &str| {
            let headers = vec![("retry-after".to_owned(), seconds.to_owned())];
            Ok(Response { status: 429, headers, body: vec![] })
        };
        let began = Instant::now();
        let (called, sent) = call(Request::get("x"), vec![after("3600")]).await;
        assert!(words(called.unwrap_err()).contains("it asks to wait 3600 s"));
        assert_eq!((sent, began.elapsed()), (1, Duration::ZERO));
        call(Request::post("x").once(), vec![after("7")]).await.0.unwrap_err();
        assert_eq!(began.elapsed(), Duration::from_secs(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_that_is_no_listing_is_not_an_empty_one() {
        for body in ["", "{}", "{\"html\": 1}", "[]", "null"] {
            let wire = Arc::new(Scripted(Mutex::new((vec![status(200, body)].into(), 0))));
            let http = Http::new(wire, &PLAIN, Arc::new(Bearer(Secret::new("test"))));
            let pages = http.pages("listing", Request::get("x"), "items", |_| None).await;
            assert!(
                matches!(pages, Err(CallError::Provider(ProviderError::Ambiguous { .. }))),
                "{body}: {pages:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_the_cloud_asks_for_is_kept_within_bounds() {
        let after = |seconds: &str| {
            let headers = [("retry-after", seconds), ("date", "Wed, 06 May 2026 12:00:00 GMT")];
            let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            Ok(Response { status: 429, headers, body: vec![] })
        };
        for (asked, least, most) in [
            ("30", 30, 31),
            ("Wed, 06 May 2026 12:00:20 GMT", 20, 21),
            ("Wed, 06 May 2026 11:00:00 GMT", 0, 2),
            ("0", 0, 2),
            ("soon", 0, 2),
        ] {
            let began = Instant::now();
            call(Request::get("x"), vec![after(asked), status(200, "{}")]).await.0.unwrap();
            let took = began.elapsed();
            assert!(
                took >= Duration::from_secs(least) && took < Duration::from_secs(most),
                "{asked}: {took:?}"
            );
        }
    }

    fn world(vars: &[(&str, &str)]) -> World {
        let vars: BTreeMap<String, String> =
            vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        World::fixed(Arc::new(SystemClock), vars, PathBuf::from("/"))
    }

    /// Takes one connection and answers it with these bytes.
    fn server(answer: &'static [u8]) -> u16 {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _read = stream.read(&mut request).unwrap();
            stream.write_all(answer).unwrap();
        });
        port
    }

    #[tokio::test]
    async fn over_the_network_unsent_is_told_from_lost() {
        let wire = Reqwest::new(&world(&[]), "example").unwrap();
        let send = async |url: String| wire.send(&Request::get(url)).await;
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let refused = send(format!("http://127.0.0.1:{free}/?token=hidden")).await.unwrap_err();
        assert!(
            matches!(&refused, WireError::NotSent(why) if why.contains("refused") && !why.contains("hidden")),
            "{refused:?}"
        );
        let nowhere = send("http://nowhere.invalid/".to_owned()).await.unwrap_err();
        assert!(matches!(&nowhere, WireError::NotSent(why) if why.contains("dns")), "{nowhere:?}");
        let no_tls =
            send(format!("https://127.0.0.1:{}/", server(b"HTTP/1.1 200 OK\r\n\r\n"))).await.unwrap_err();
        assert!(matches!(no_tls, WireError::Untrusted(_)), "{no_tls:?}");
        let cut =
            send(format!("http://127.0.0.1:{}/", server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}")))
                .await;
        assert!(matches!(cut, Err(WireError::Lost(_))), "{cut:?}");
        let silent = send(format!("http://127.0.0.1:{}/", server(b""))).await;
        assert!(matches!(silent, Err(WireError::Lost(_))), "{silent:?}");
        let moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(send(format!("http://127.0.0.1:{}/", server(moved))).await.unwrap().status, 302);
    }

    #[test]
    fn an_endpoint_is_the_variables_then_the_specs_then_the_vendors() {
        let set = world(&[("LANE_GCP_ENDPOINT", "http://127.0.0.1:1/")]);
        assert_eq!(endpoint(&set, "gcp", Some("http://spec"), "https://vendor/"), "http://127.0.0.1:1");
        assert_eq!(endpoint(&world(&[]), "gcp", Some("http://spec/"), "https://vendor"), "http://spec");
        assert_eq!(endpoint(&world(&[]), "gcp", None, "https://vendor/"), "https://vendor");
    }

    #[test]
    fn a_bad_certificate_file_is_named() {
        let set = world(&[("SSL_CERT_FILE", "/nowhere/ca.pem")]);
        let error = Reqwest::new(&set, "example").unwrap_err();
        assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
    }

    #[test]
    fn a_secret_is_not_shown() {
        let request = Request::get("x").header("authorization", "Bearer abc");
        let pairs = vec![("client_secret".to_owned(), "abc".to_owned())];
        for request in [request.clone(), request.clone().form(pairs), request.json(json!({"key": "abc"}))] {
            assert!(!format!("{request:?}").contains("abc"));
        }
    }
}
