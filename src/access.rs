//! Who may do what: the tokens of the access file, the roles that each has, and the chains on which it has them.
//!
//! A token is 32 random bytes as text; the file has its SHA-256 only, so that who reads the file has no token. A role says what may be
//! done, and none includes another: a sensor that may write need not be able to read. What everybody may do (`anonymous`), whoever has
//! a token may do too.
//!
//! ```toml
//! anonymous = ["read"]             # roles of those who show no token; none where it is not said
//! anonymous_chains = ["public-*"]  # the chains on which they have them; all where it is not said
//!
//! [[tokens]]
//! name = "billing"                 # stands in the log
//! sha256 = "64 hexadecimal digits"
//! roles = ["read", "write"]
//! chains = ["orders-*", "invoices"]
//! ```

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;
use subtle::ConstantTimeEq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use toml::Spanned;

use crate::{
    core::hash::{self, Hash},
    limits,
};

/// What may be done. None of them includes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To see what is there.
    Read,
    /// To inject and to leap.
    Write,
    /// To make chains, erase, import, mirror, and change the node and its cluster.
    Operate,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 3] = [Role::Read, Role::Write, Role::Operate];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Write => "write",
            Role::Operate => "operate",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Role {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Role, &'static str> {
        Role::ALL.into_iter().find(|role| role.name() == text).ok_or("a role is read, write or operate")
    }
}

/// The names of some chains: `*` stands for any text, also none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Whether a chain of this name is one of them.
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(last) = parts.next_back() else { return self.0 == name };
        let inner = name.strip_prefix(first).and_then(|rest| rest.strip_suffix(last));
        let Some(mut rest) = inner else { return false };
        // The first place of each part leaves the most for those that follow.
        parts.all(|part| {
            rest.find(part).is_some_and(|at| {
                rest = &rest[at + part.len()..];
                true
            })
        })
    }

    /// Whether every chain is one of them.
    pub fn is_all(&self) -> bool {
        !self.0.is_empty() && self.0.bytes().all(|byte| byte == b'*')
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Pattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Pattern, &'static str> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-*".contains(&byte);
        match (1..=limits::PATTERN_BYTES).contains(&text.len()) && text.bytes().all(is_plain) {
            true => Ok(Pattern(text.into())),
            false => Err("chains are named by patterns such as \"orders\", \"orders-*\" and \"*\""),
        }
    }
}

/// The name of a token, which stands in the log: letters, digits, and `._@-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenName(String);

impl TokenName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for TokenName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<TokenName, &'static str> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
        match (1..=limits::TOKEN_NAME_BYTES).contains(&text.len()) && text.bytes().all(is_plain) {
            true => Ok(TokenName(text.into())),
            false => Err("a token's name has 1 to 64 letters, digits, or characters of \"._@-\""),
        }
    }
}

/// A token as its holder has it. It is never shown but where it is made.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Of 32 random bytes. What stands before them lets scanners of published code find it.
    pub fn new(bytes: [u8; 32]) -> Secret {
        Secret(format!("qbc_{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// As it is sent.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What the access file has of it.
    pub fn digest(&self) -> Hash {
        hash::token(self.0.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Takes what a header can carry (RFC 6750 section 2.1). Its errors do not repeat it.
impl std::str::FromStr for Secret {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Secret, &'static str> {
        let text = text.trim();
        match is_token(text.as_bytes()) {
            true => Ok(Secret(text.into())),
            false => Err("a token is one word of letters, digits and -._~+/="),
        }
    }
}

/// Whether this may be a token: `b64token` of RFC 6750 section 2.1.
pub fn is_token(text: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    (1..=limits::TOKEN_BYTES).contains(&text.len()) && text.iter().all(is_plain)
}

/// What may be done, and on which chains.
#[derive(Clone, Debug, Default)]
struct Grant {
    roles: Vec<Role>,
    chains: Vec<Pattern>,
}

impl Grant {
    fn may(&self, role: Role, on: On) -> bool {
        let holds = |pattern: &Pattern| match on {
            On::Chain(name) => pattern.matches(name),
            On::All => pattern.is_all(),
            On::Any => true,
        };
        self.roles.contains(&role) && self.chains.iter().any(holds)
    }
}

/// On what something is to be done.
#[derive(Clone, Copy, Debug)]
pub enum On<'a> {
    /// On the chain of this name.
    Chain(&'a str),
    /// On the node as a whole, which takes the right on all chains.
    All,
    /// On some chain, whichever.
    Any,
}

/// A token of the access file.
#[derive(Debug)]
pub struct Token {
    /// Its name.
    pub name: TokenName,
    digest: Hash,
    grant: Grant,
    /// What those who show it take up.
    pub usage: Arc<Usage>,
}

/// The place of a token in an [`Access`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenAt(usize);

/// What an access file says.
#[derive(Debug, Default)]
pub struct Access {
    anonymous: Grant,
    tokens: Vec<Token>,
    /// The places of tokens by a hash of their digests whose key nobody knows: how long a search takes tells nothing of a digest, and the
    /// digest itself is compared in constant time.
    places: HashMap<u64, Vec<usize>>,
    keyed: RandomState,
}

/// Why an access file is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {detail}")]
pub struct AccessError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong there. It repeats nothing that may be a token.
    pub detail: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    anonymous: Vec<Spanned<String>>,
    anonymous_chains: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    tokens: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Spanned<String>,
    sha256: Spanned<String>,
    roles: Spanned<Vec<Spanned<String>>>,
    chains: Spanned<Vec<Spanned<String>>>,
}

/// The text of an access file, to name lines of it.
struct Text<'a>(&'a str);

impl Text<'_> {
    fn wrong(&self, at: usize, detail: impl Into<String>) -> AccessError {
        let before = &self.0.as_bytes()[..at.min(self.0.len())];
        AccessError { line: 1 + before.iter().filter(|&&byte| byte == b'\n').count(), detail: detail.into() }
    }

    fn parse<T: std::str::FromStr<Err = &'static str>>(&self, value: &Spanned<String>) -> Result<T, AccessError> {
        value.as_ref().parse().map_err(|detail| self.wrong(value.span().start, detail))
    }

    fn parse_all<T: std::str::FromStr<Err = &'static str>>(
        &self,
        values: &[Spanned<String>],
    ) -> Result<Vec<T>, AccessError> {
        values.iter().map(|value| self.parse(value)).collect()
    }

    fn some<'a>(
        &self,
        values: &'a Spanned<Vec<Spanned<String>>>,
        what: &str,
    ) -> Result<&'a [Spanned<String>], AccessError> {
        match values.as_ref().is_empty() {
            true => Err(self.wrong(values.span().start, what)),
            false => Ok(values.as_ref()),
        }
    }

    fn token(&self, entry: &Entry) -> Result<Token, AccessError> {
        let digest = entry.sha256.as_ref().parse().map_err(|_| {
            let detail = "sha256 is not 64 lower-case hexadecimal digits: `qbc token` prints a token and its lines for this file";
            self.wrong(entry.sha256.span().start, detail)
        })?;
        let roles = self.some(&entry.roles, "a token has at least one role: read, write, operate")?;
        let chains = self.some(&entry.chains, "a token is for some chains: \"*\" is for all")?;
        let grant = Grant { roles: self.parse_all(roles)?, chains: self.parse_all(chains)? };
        Ok(Token { name: self.parse(&entry.name)?, digest, grant, usage: Arc::default() })
    }
}

impl Access {
    /// Reads the text of an access file.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn parse(text: &str) -> Result<Access, AccessError> {
        let lines = Text(text);
        let file: File = toml::from_str(text).map_err(|error| {
            let misplaced = "in TOML it belongs to the table above it: write it before the first [[tokens]]";
            let message = error.message();
            let is_misplaced = message.starts_with("unknown field `anonymous");
            let detail = if is_misplaced { format!("{message}: {misplaced}") } else { message.to_owned() };
            lines.wrong(error.span().map_or(0, |span| span.start), detail)
        })?;
        let all = vec![Pattern("*".into())];
        let chains = file.anonymous_chains.as_deref().map_or(Ok(all), |chains| lines.parse_all(chains))?;
        let anonymous = Grant { roles: lines.parse_all(&file.anonymous)?, chains };
        let mut access = Access { anonymous, ..Access::default() };
        let (mut names, mut digests) = (HashSet::new(), HashSet::new());
        for entry in &file.tokens {
            let token = lines.token(entry)?;
            let at = entry.name.span().start;
            if !names.insert(token.name.clone()) {
                return Err(lines.wrong(at, format!("the name {:?} stands twice", token.name.as_str())));
            }
            if !digests.insert(token.digest) {
                return Err(
                    lines.wrong(entry.sha256.span().start, "another entry has the same token: make one for each")
                );
            }
            if access.tokens.len() == limits::TOKENS {
                return Err(lines.wrong(at, format!("a node has at most {} tokens", limits::TOKENS)));
            }
            access.places.entry(access.keyed.hash_one(token.digest)).or_default().push(access.tokens.len());
            access.tokens.push(token);
        }
        Ok(access)
    }

    /// Goes on counting what those take up who have the same tokens in the file that was in force.
    pub fn goes_on_from(&mut self, before: &Access) {
        for token in &mut self.tokens {
            if let Some(same) = before.place(token.digest) {
                token.usage = before.tokens[same.0].usage.clone();
            }
        }
    }

    /// The token that somebody shows.
    pub fn find(&self, token: &[u8]) -> Option<TokenAt> {
        self.place(hash::token(token))
    }

    fn place(&self, digest: Hash) -> Option<TokenAt> {
        let places = self.places.get(&self.keyed.hash_one(digest))?;
        let is_it = |place: &&usize| bool::from(self.tokens[**place].digest.as_bytes().ct_eq(digest.as_bytes()));
        places.iter().find(is_it).map(|&place| TokenAt(place))
    }

    /// The place in this file of a token of another one.
    pub fn same(&self, of: &Access, token: TokenAt) -> Option<TokenAt> {
        self.place(of.tokens[token.0].digest)
    }

    /// A token.
    pub fn token(&self, at: TokenAt) -> &Token {
        &self.tokens[at.0]
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Whether whoever shows this token, or none, may do that.
    pub fn may(&self, token: Option<TokenAt>, role: Role, on: On) -> bool {
        self.anonymous.may(role, on) || token.is_some_and(|token| self.tokens[token.0].grant.may(role, on))
    }
}

/// The lines of an access file for a token.
pub fn entry(name: &TokenName, digest: Hash, roles: &[Role], chains: &[Pattern]) -> String {
    let roles: Vec<String> = roles.iter().map(|role| format!("\"{role}\"")).collect();
    let chains: Vec<String> = chains.iter().map(|chain| format!("\"{chain}\"")).collect();
    let (name, roles, chains) = (name.as_str(), roles.join(", "), chains.join(", "));
    format!("[[tokens]]\nname = \"{name}\"\nsha256 = \"{digest}\"\nroles = [{roles}]\nchains = [{chains}]")
}

/// What a client can take up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Connections.
    Connections,
    /// Requests under way.
    Requests,
    /// Listeners to events.
    Listeners,
    /// Bytes of bodies in memory.
    BodyBytes,
    /// Bytes of answers that wait to be taken.
    AnswerBytes,
    /// Imports under way.
    Imports,
}

/// What one client, an address or a token, takes up at the moment.
#[derive(Debug)]
pub struct Usage {
    used: [AtomicUsize; 6],
    /// Reads of the store that it may still have at one time; more wait, in order.
    pub reads: Arc<Semaphore>,
    /// The same for heavy work.
    pub heavy: Arc<Semaphore>,
    /// KiB of writes that it may still have wait for the writers; more wait, in order.
    pub writes: Arc<Semaphore>,
    /// Whether a stream of it may wait for memory; others wait.
    pub next_lines: Arc<Semaphore>,
    /// Slices of proofs of work that may still be sought for it at one time; more wait, in order.
    pub slices: Arc<Semaphore>,
    /// Connections of it that may be worked on at one time; others wait, in order.
    pub connections: Arc<Semaphore>,
    /// Held by all clients that are connected.
    pub present: OnceLock<Arc<()>>,
    /// Whether a handshake of TLS may go on that it has begun; others wait.
    pub handshakes: Arc<Semaphore>,
}

impl Default for Usage {
    fn default() -> Usage {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        let (reads, slices) = (semaphore(TURNS.reads[1]), semaphore(TURNS.reads[1]));
        let (heavy, connections) = (semaphore(TURNS.heavy[1]), semaphore(TURNS.connections));
        let (present, handshakes) = (OnceLock::new(), semaphore(1));
        let (writes, next_lines) = (semaphore(limits::WRITES_AHEAD >> 10), semaphore(1));
        Usage { used: Default::default(), reads, heavy, writes, next_lines, slices, connections, present, handshakes }
    }
}

/// Waits for so many places, where they are counted.
pub async fn wait_for(places: Option<&Arc<Semaphore>>, wanted: u32) -> Option<OwnedSemaphorePermit> {
    match places {
        None => None,
        Some(places) => Some(places.clone().acquire_many_owned(wanted).await.expect("it is never closed")),
    }
}

/// How much is done at one time on this machine, for all clients and for one.
pub struct AtOneTime {
    /// Reads of the store.
    pub reads: [usize; 2],
    /// Heavy work.
    pub heavy: [usize; 2],
    /// Handshakes of TLS, of all clients.
    pub handshakes: usize,
    /// Connections of one client.
    pub connections: usize,
}

/// See [`AtOneTime`].
pub static TURNS: LazyLock<AtOneTime> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (reads, heavy) = (limits::reads(processors), limits::heavy(processors));
    // Half of the processors have no part in them.
    AtOneTime { reads, heavy, handshakes: (processors / 2).max(1), connections: 2 * processors }
});

impl Usage {
    /// Whether no other client is connected.
    pub fn is_alone(&self) -> bool {
        // One is with whoever counts.
        self.present.get().is_none_or(|all| Arc::strong_count(all) <= 2)
    }

    /// Takes `amount` more, where that makes no more than `bound`.
    pub fn hold(self: &Arc<Usage>, resource: Resource, amount: usize, bound: usize) -> Option<Held> {
        let used = &self.used[resource as usize];
        let held = Held { usage: self.clone(), resource, amount };
        // Given back by the guard, also where it is too much.
        let before = used.fetch_add(amount, Ordering::Relaxed);
        (before.saturating_add(amount) <= bound).then_some(held)
    }
}

/// What a client has taken. It is given back when this is dropped.
#[derive(Debug)]
pub struct Held {
    usage: Arc<Usage>,
    resource: Resource,
    amount: usize,
}

impl Held {
    /// Puts two of one client and kind together.
    pub fn merge(&mut self, mut other: Held) {
        debug_assert!(Arc::ptr_eq(&self.usage, &other.usage) && self.resource == other.resource);
        self.amount += std::mem::take(&mut other.amount);
    }

    /// Gives a part back.
    pub fn give_back(&mut self, amount: usize) {
        let amount = amount.min(self.amount);
        self.amount -= amount;
        self.usage.used[self.resource as usize].fetch_sub(amount, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(rest: &str) -> String {
        let token = |number: u8, name: &str, roles: &[Role], chains: &[&str]| {
            let chains: Vec<Pattern> = chains.iter().map(|chain| chain.parse().unwrap()).collect();
            entry(&name.parse().unwrap(), Secret::new([number; 32]).digest(), roles, &chains)
        };
        let orders = token(1, "orders", &[Role::Write], &["orders-*"]);
        format!("{rest}\n{orders}\n{}\n", token(2, "all", &Role::ALL, &["*"]))
    }

    #[test]
    fn a_token_has_its_roles_on_its_chains_and_what_everybody_has() {
        let access = Access::parse(&file("anonymous = [\"read\"]\nanonymous_chains = [\"public\"]")).unwrap();
        let find = |number: u8| access.find(Secret::new([number; 32]).reveal().as_bytes());
        let (orders, all) = (find(1).unwrap(), find(2).unwrap());
        assert_eq!((access.token(orders).name.as_str(), access.len()), ("orders", 2));
        assert_eq!((find(3), access.find(b""), access.find(b"qbc_")), (None, None, None));
        for (token, role, on, may) in [
            (None, Role::Read, On::Chain("public"), true),
            (None, Role::Read, On::Chain("orders-1"), false),
            (None, Role::Write, On::Chain("public"), false),
            (None, Role::Read, On::All, false),
            (None, Role::Read, On::Any, true),
            (Some(orders), Role::Write, On::Chain("orders-1"), true),
            (Some(orders), Role::Write, On::Chain("orders"), false),
            (Some(orders), Role::Write, On::Any, true),
            (Some(orders), Role::Write, On::All, false),
            (Some(orders), Role::Read, On::Chain("orders-1"), false),
            (Some(orders), Role::Read, On::Chain("public"), true),
            (Some(orders), Role::Operate, On::Any, false),
            (Some(all), Role::Operate, On::All, true),
            (Some(all), Role::Read, On::Chain("orders-1"), true),
        ] {
            assert_eq!(access.may(token, role, on), may, "{token:?} {role} {on:?}");
        }
        let closed = Access::parse("").unwrap();
        assert!(Role::ALL.into_iter().all(|role| !closed.may(None, role, On::Any)));
    }

    #[test]
    fn a_pattern_matches_whole_names() {
        for (pattern, yes, no) in [
            ("orders", vec!["orders"], vec!["orders-1", "order", ""]),
            ("orders-*", vec!["orders-", "orders-1"], vec!["orders", "x-orders-1"]),
            ("*", vec!["", "a"], vec![]),
            ("*-eu", vec!["a-eu", "-eu"], vec!["eu", "a-eu-b"]),
            ("a*b*c", vec!["abc", "axbxbxc"], vec!["ab", "acb", "abcd"]),
            ("a*a", vec!["aa", "aba"], vec!["a"]),
            ("**", vec!["", "x"], vec![]),
        ] {
            let parsed: Pattern = pattern.parse().unwrap();
            assert!(yes.iter().all(|name| parsed.matches(name)), "{pattern}");
            assert!(!no.iter().any(|name| parsed.matches(name)), "{pattern}");
            assert_eq!(parsed.is_all(), pattern.trim_matches('*').is_empty());
        }
        for wrong in ["", "A", "a b", "é", "a?", &"a".repeat(limits::PATTERN_BYTES + 1)] {
            assert!(wrong.parse::<Pattern>().is_err(), "{wrong:?}");
        }
    }

    /// The token of somebody who has put it where its digest belongs is in no message.
    #[test]
    fn a_wrong_file_is_refused_with_its_line_and_without_its_values() {
        let good = file("");
        for (wrong, line, part) in [
            (good.replacen("[\"write\"]", "[\"wirte\"]", 1), 5, "read, write or operate"),
            (good.replacen("roles", "role", 1), 5, "role"),
            (good.replacen("[\"write\"]", "[]", 1), 5, "at least one role"),
            (good.replacen("[\"*\"]", "[\"* \"]", 1), 11, "patterns"),
            (good.replacen("name = \"all\"", "name = \"orders\"", 1), 8, "stands twice"),
            (good.replacen("name = \"all\"", "name = \"a b\"", 1), 8, "name"),
            (format!("{good}anonymous = [\"read\"]\n"), 12, "before the first [[tokens]]"),
            (format!("anonymous = [\"read\", \"all\"]{good}"), 1, "read, write or operate"),
            (format!("{good}nonsense\n"), 12, ""),
            (
                "[[tokens]]\nname = \"x\"\nsha256 = \"qbc_secret\"\nroles=[\"read\"]\nchains=[\"*\"]".into(),
                3,
                "qbc token",
            ),
            ("[[tokens]]\nname = \"x\"".into(), 1, "sha256"),
        ] {
            let error = Access::parse(&wrong).unwrap_err();
            assert_eq!(error.line, line, "{error}: {wrong}");
            assert!(error.detail.contains(part) && !error.detail.contains("qbc_"), "{error}");
        }
        let twice =
            good.replace(&Secret::new([2; 32]).digest().to_string(), &Secret::new([1; 32]).digest().to_string());
        assert_eq!(Access::parse(&twice).unwrap_err().line, 9);
    }

    #[test]
    fn what_is_held_is_bounded_and_given_back() {
        let usage: Arc<Usage> = Arc::default();
        let hold = |amount| usage.hold(Resource::BodyBytes, amount, 10);
        let mut held = hold(6).unwrap();
        assert!(hold(5).is_none());
        held.merge(hold(4).unwrap());
        assert!(hold(1).is_none() && usage.hold(Resource::Requests, 1, 1).is_some());
        held.give_back(3);
        assert!(hold(4).is_none() && hold(3).is_some());
        drop(held);
        assert!(hold(11).is_none() && hold(10).is_some());
    }

    #[test]
    fn a_new_file_goes_on_counting() {
        let before = Access::parse(&file("")).unwrap();
        let held = before.token(TokenAt(0)).usage.hold(Resource::Requests, 1, 1).unwrap();
        let mut after = Access::parse(&file("anonymous = []")).unwrap();
        after.goes_on_from(&before);
        let hold = |access: &Access| access.token(TokenAt(0)).usage.hold(Resource::Requests, 1, 1).is_some();
        assert!(!hold(&after));
        drop(held);
        assert!(hold(&after));
    }

    #[test]
    fn a_token_is_one_word_and_is_not_shown() {
        let secret: Secret = " qbc_a-b.c~d+e/f= \n".parse().unwrap();
        assert_eq!(secret.reveal(), "qbc_a-b.c~d+e/f=");
        assert_eq!(format!("{secret:?}"), "Secret");
        for wrong in ["", "a b", "a\nb", "é", &"a".repeat(limits::TOKEN_BYTES + 1)] {
            assert!(wrong.parse::<Secret>().is_err_and(|error| !error.contains("a b")), "{wrong:?}");
        }
        assert_eq!(Secret::new([0xff; 32]).reveal().len(), 4 + 43);
    }
}
