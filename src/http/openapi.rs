//! The OpenAPI document. A handler describes what it alone does; what follows from the kind of its route (statuses that any
//! such route can answer, problem documents, headers) is added here, once for all.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    marker::PhantomData,
};

use axum::http::{HeaderValue, Method, Response, header};
use utoipa::{
    IntoResponses, Number, PartialSchema, ToSchema,
    openapi::{
        ArrayBuilder, Components, Content, Header, KnownFormat, Object, ObjectBuilder, OneOfBuilder, OpenApi, Ref,
        RefOr, Required, Schema, SchemaFormat, ServerBuilder, Type,
        info::InfoBuilder,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem},
        response::ResponseBuilder,
        schema::SchemaType,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
        tag::TagBuilder,
    },
};

use super::{
    extract::LINES,
    metrics::OfRoute,
    problem::ProblemDocument,
    table::{Kind, Listed, ListedMethod, Rules},
};
use crate::{
    core::{
        hash::Hash,
        rules::ChainName,
        transaction::{Id, Timestamp},
    },
    limits,
};

/// What stands before the routes of a chain that is named.
pub const NESTED: &str = "/chains/{chain}";

/// Texts of one form.
macro_rules! texts {
    ($($type:ty: $description:literal, $pattern:literal;)*) => {
    $(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                let text = ObjectBuilder::new().schema_type(Type::String);
                text.description(Some($description)).pattern(Some($pattern)).into()
            }
        }

        impl ToSchema for $type {}
    )*

        /// The schemas of them all: those that only parameters name are not gathered by the macros.
        fn texts() -> Vec<(String, RefOr<Schema>)> {
            vec![$((<$type>::name().into(), <$type>::schema())),*]
        }
    };
}

texts! {
    Hash: "A SHA-256 hash: 64 lower-case hexadecimal digits", "^[0-9a-f]{64}$";
    Timestamp: "RFC 3339, UTC, six digits", r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$";
    ChainName: "The name of a chain", "^[a-z0-9][a-z0-9._-]{0,62}$";
    Id: "A client's own name for a transaction: printable ASCII without space", "^[!-~]{1,128}$";
    PublicKey: "An Ed25519 public key: 64 lower-case hexadecimal digits", "^[0-9a-f]{64}$";
    Signature: "An Ed25519 signature: 128 lower-case hexadecimal digits", "^[0-9a-f]{128}$";
    TileName: "The number of a tile in groups of three digits, all but the last with an x before it, like `x001/x234/067`; \
        after it, where the tile is not complete yet, `.p/` and how many hashes it has, 1 to 255",
        r"^(x(00[1-9]|0[1-9]\d|[1-9]\d\d)/(x\d{3}/){0,4})?\d{3}(\.p/([1-9]\d?|1\d\d|2[0-4]\d|25[0-5]))?$";
    Salt: "32 lower-case hexadecimal digits", "^[0-9a-f]{32}$";
}

/// An Ed25519 public key in JSON.
pub struct PublicKey;

/// An Ed25519 signature in JSON.
pub struct Signature;

/// The salt of a transaction in JSON.
pub struct Salt;

/// The name of a tile in a path.
pub struct TileName;

/// The guard of a write.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it describes a header in the OpenAPI document")]
pub struct Guard {
    /// The `ETag` of `/stats`, of an inject or of a leap: the write is done only if nothing got in between, and else
    /// answered `412`. `*` expects nothing.
    #[param(
        rename = "If-Match",
        nullable = false,
        example = "*",
        pattern = r#"^(\*|"(0|[1-9]\d{0,19})(\.(0|[1-9]\d{0,19}))?")$"#
    )]
    if_match: Option<String>,
}

/// Bytes that are no text.
pub struct Binary;

impl PartialSchema for Binary {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
            .into()
    }
}

impl ToSchema for Binary {}

/// What can be cached answers `304` to those who have it.
pub struct Cached;

impl IntoResponses for Cached {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let unchanged = ResponseBuilder::new().description("What `If-None-Match` names is the answer still");
        [("304".into(), unchanged.build().into())].into()
    }
}

/// A JSON Schema, or null where there is none.
pub fn json_schema() -> Object {
    let mut schema = Object::with_type(SchemaType::from_iter([Type::Object, Type::Boolean, Type::Null]));
    schema.description = Some("A JSON Schema (2020-12), or null for any data".into());
    schema
}

/// On how many nodes a chain is kept.
pub fn replicas() -> Object {
    let counts = ObjectBuilder::new().schema_type(Type::Integer).enum_values(Some([1, 3, 5]));
    counts.description(Some("On how many nodes of the cluster it is kept")).build()
}

/// One, or an array of them.
pub struct OneOrMany<T>(PhantomData<T>);

impl<T: ToSchema> PartialSchema for OneOrMany<T> {
    fn schema() -> RefOr<Schema> {
        let one = || Ref::from_schema_name(T::name());
        let many = ArrayBuilder::new().items(one()).min_items(Some(1)).max_items(Some(limits::ARRAY_TRANSACTIONS));
        OneOfBuilder::new().item(one()).item(many).into()
    }
}

impl<T: ToSchema> ToSchema for OneOrMany<T> {
    fn name() -> Cow<'static, str> {
        format!("OneOrMany{}", T::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into(), T::schema()));
        T::schemas(schemas);
    }
}

/// A name in a form: whatever else such a body may have is no text.
#[derive(utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it describes a body in the OpenAPI document")]
pub struct NameForm {
    /// The new chain's name.
    name: ChainName,
}

/// What a rule below goes by.
struct Route<'a> {
    path: &'a str,
    method: Method,
    kind: Kind,
    operation: &'a Operation,
}

impl Route<'_> {
    fn writes(&self) -> bool {
        self.kind.changes()
    }

    fn names_something(&self) -> bool {
        self.path.contains('{') || self.is_of_a_chain()
    }

    fn is_of_a_chain(&self) -> bool {
        self.operation.tags.iter().flatten().any(|tag| tag == "chain")
    }

    fn has_body(&self) -> bool {
        self.operation.request_body.is_some()
    }
}

/// A status with its description, and the routes that can answer it.
type Implied = (&'static str, &'static str, fn(&Route) -> bool);

/// What a route can answer beside that which its handler lists. A handler that lists one of these has more to say of it.
const IMPLIED: [Implied; 16] = [
    ("400", "The request is malformed, or has a parameter that this route does not know", |_| true),
    ("401", "The node has an access file, and no token came with the request, or one that it does not know", |route| {
        route.kind.role().is_some()
    }),
    ("403", "The token has not this right, or a page of another site asked for a write", |route| {
        route.writes() || route.kind.role().is_some()
    }),
    ("404", "There is no such chain, or nothing in it by this name", |route| route.names_something()),
    ("408", "The body stopped coming", |route| route.has_body()),
    ("412", "A condition does not hold: `If-Match` names another state, or is sent where there is none", |route| {
        route.writes()
    }),
    ("413", "The body is too large", |route| route.has_body()),
    ("414", "The path is too long", |_| true),
    ("415", "This route takes no such body, or no such coding of it", |route| route.method != Method::GET),
    ("421", "The node is not known by the name in the header `Host`", |_| true),
    ("422", "The body has not the shape that this route takes", |route| route.has_body()),
    ("431", "The request's head is too large", |_| true),
    ("429", "The client, an address or a token, has too much under way", |_| true),
    ("500", "A fault of the node; its log says more", |_| true),
    ("503", "The node has too much to do or cannot read or write, or the chain is damaged", |route| {
        route.writes() || route.is_of_a_chain() || route.path.starts_with(NESTED)
    }),
    ("507", "The disk is full", |route| route.writes()),
];

/// Headers of answers. What a handler or a rule names is described here.
const HEADERS: [(&str, &str); 13] = [
    ("Accept-Encoding", "The codings that a body may have"),
    ("Cache-Control", "For how long the answer may be kept"),
    ("Content-Security-Policy", "What a browser may do with a page"),
    (
        "ETag",
        "Of what can be cached, the tag for `If-None-Match`; of a chain's figures and of writes, the chain's state, for \
        `If-Match`: the index that the next transaction will get, and after a leap its quant",
    ),
    ("Idempotent-Replayed", "`true` where an earlier request had done all of it"),
    ("Link", "`rel=\"next\"`: the next page, where there is one"),
    ("Location", "Where what was made stands"),
    ("Referrer-Policy", "That a browser tells no other site of a page"),
    ("Retry-After", "Seconds after which it is worth another try"),
    ("Vary", "The request headers that the answer depends on"),
    (
        "WWW-Authenticate",
        "How to authenticate: `Bearer` (RFC 6750) where the node asks for a token, `QBC-Ed25519` where the chain asks for the signature \
        of one of its writers",
    ),
    ("X-Content-Type-Options", "That a browser takes the type as it is said"),
    (REQUEST_ID, "The request's `X-Request-Id`, or one that was made for it; the node's log has it"),
];

/// The name of the scheme by which clients show tokens.
const BEARER: &str = "bearer";

const REQUEST_ID: &str = "X-Request-Id";
const IF_NONE_MATCH: &str = "If-None-Match";

/// Headers that any request, or any for what is cacheable, may have.
const PARAMETERS: [(&str, &str); 2] = [
    (REQUEST_ID, "An id for the request, up to 128 visible ASCII characters: it comes back, and the node's log has it"),
    (IF_NONE_MATCH, "The `ETag` of an answer that the client has: `304` where it is still the same"),
];

/// Completes what the macros have gathered.
pub fn finish(mut document: OpenApi, rules: &Rules) -> OpenApi {
    document.info = InfoBuilder::new()
        .title("QBC, the Quantum blockchain")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Tamper-evident, append-only chains. Every chain route stands twice: at `/…` for the default chain, and at \
             `/chains/{chain}/…` for any. Where a GET is listed, HEAD does the same without a body, but for `/leap`. \
             Bodies may be coded (`Content-Encoding`: gzip, br, zstd), answers are by `Accept-Encoding`.",
        ))
        .build();
    // Relative to the document, so that it holds behind any proxy.
    document.servers = Some(vec![ServerBuilder::new().url(".").description(Some("This node")).build()]);
    document.tags = Some(vec![
        TagBuilder::new().name("chain").description(Some("What one chain holds, and what can be done with it")).build(),
        TagBuilder::new().name("node").description(Some("Chains as a whole, other nodes, and the node itself")).build(),
    ]);
    // It stands at each operation that asks for a token.
    document.security = Some(Vec::new());

    // A parameter that takes the rest of a path has a mark in the router, which OpenAPI does not know.
    let paths = std::mem::take(&mut document.paths.paths);
    let complete_all = paths.into_iter().map(|(marked, mut item)| {
        let path = without_marks(&marked);
        let is_nested = path.strip_prefix(NESTED).is_some_and(|rest| !rest.is_empty());
        if is_nested {
            item.parameters.get_or_insert_default().push(RefOr::T(chain_parameter()));
        }
        for (method, operation) in operations(&mut item) {
            if let Some(id) = operation.operation_id.as_mut().filter(|_| is_nested) {
                id.insert_str(0, "chain_");
            }
            let kind = rules[&(marked.clone(), method.clone())].kind;
            complete(&path, method, kind, operation);
        }
        (path, item)
    });
    document.paths.paths = complete_all.collect();
    add_shared(document.components.get_or_insert_default());
    document
}

fn without_marks(path: &str) -> String {
    path.replace("{*", "{")
}

fn chain_parameter() -> Parameter {
    ParameterBuilder::new()
        .name("chain")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some("The chain's name, or its id"))
        .schema(Some(Ref::from_schema_name("ChainName")))
        .build()
}

/// The operations of a path.
pub fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let methods = [Method::GET, Method::POST, Method::PATCH, Method::DELETE];
    let operations = [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete];
    methods.into_iter().zip(operations).filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// The routes of the document, by the paths that are asked for.
pub fn listed(document: &OpenApi, rules: &Rules) -> matchit::Router<Listed> {
    let mut all = matchit::Router::new();
    for (path, item) in &document.paths.paths {
        let mut item = item.clone();
        let methods = operations(&mut item).map(|(method, operation)| {
            let names = operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
                RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query => Some(parameter.name.clone()),
                _ => None,
            });
            let rule = rules[&(path.clone(), method.clone())];
            ListedMethod { method, rule, parameters: names.collect(), counted: OfRoute::default() }
        });
        let template = without_marks(path).into();
        let listed = Listed { path: path.clone(), template, methods: methods.collect() };
        all.insert(path, listed).expect("the router has these paths too");
    }
    all
}

/// Adds what follows from the kind of a route.
fn complete(path: &str, method: Method, kind: Kind, operation: &mut Operation) {
    // For schemes other than OAuth, what stands here are the roles that are needed. A node without an access file asks for no token.
    let by_token = kind.role().map(|role| SecurityRequirement::new(BEARER, [role.name()]));
    operation.security = by_token.map(|by_token| vec![by_token, SecurityRequirement::default()]);
    let route = Route { path, method, kind, operation };
    let implied: Vec<&Implied> = IMPLIED.iter().filter(|(_, _, holds)| holds(&route)).collect();
    for (status, description, _) in implied {
        let response = || ResponseBuilder::new().description(*description).build().into();
        operation.responses.responses.entry((*status).to_owned()).or_insert_with(response);
    }
    let is_cacheable = operation.responses.responses.contains_key("304");
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        if status.as_str() >= "400" && response.content.is_empty() {
            let problem = Content::new(Some(Ref::from_schema_name(ProblemDocument::name())));
            response.content.insert("application/problem+json".into(), problem.into());
        }
        let by_status: &[&str] = match status.as_str() {
            "200" | "304" if is_cacheable => &["Cache-Control", "ETag", "Vary"],
            "401" | "403" => &["WWW-Authenticate"],
            "415" => &["Accept-Encoding"],
            "429" | "503" => &["Retry-After"],
            _ => &[],
        };
        let listed: Vec<String> = response.headers.keys().cloned().collect();
        let names = listed.iter().map(String::as_str).chain(by_status.iter().copied()).chain([REQUEST_ID]);
        response.headers = names.map(|name| (name.to_owned(), RefOr::Ref(shared("headers", name)))).collect();
    }
    let parameters = operation.parameters.get_or_insert_default();
    parameters.iter_mut().for_each(bound);
    let names = PARAMETERS.iter().map(|(name, _)| *name).filter(|&name| name == REQUEST_ID || is_cacheable);
    parameters.extend(names.map(|name| RefOr::Ref(shared("parameters", name))));
}

/// A number in a URL ends where 64 bits do, which its format alone does not tell a client.
fn bound(parameter: &mut RefOr<Parameter>) {
    let RefOr::T(Parameter { schema: Some(RefOr::T(Schema::Object(number))), .. }) = parameter else { return };
    if matches!(number.format, Some(SchemaFormat::KnownFormat(KnownFormat::UInt64))) {
        number.maximum.get_or_insert(Number::UInt(usize::MAX));
    }
}

fn shared(kind: &str, name: &str) -> Ref {
    Ref::new(format!("#/components/{kind}/{name}"))
}

fn add_shared(components: &mut Components) {
    let text = || RefOr::<Schema>::T(Object::with_type(Type::String).into());
    for (name, description) in HEADERS {
        let mut header = Header::new(text());
        header.description = Some(description.into());
        components.headers.insert(name.into(), header.into());
    }
    for (name, description) in PARAMETERS {
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header).schema(Some(text()));
        let parameter = parameter.required(Required::False).description(Some(description)).build();
        components.parameters.insert(name.into(), parameter.into());
    }
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
        "A token, where the node has an access file: `qbc token` makes one. Without such a file everybody may do everything",
    ));
    components.add_security_scheme(BEARER, SecurityScheme::Http(bearer.build()));
    let mut schemas = texts();
    schemas.push((ProblemDocument::name().into(), ProblemDocument::schema()));
    ProblemDocument::schemas(&mut schemas);
    components.schemas.extend(schemas);
    // Its fields stand among others in some answers, which must not refuse those.
    if let Some(RefOr::T(Schema::Object(quant))) = components.schemas.get_mut("QuantFields") {
        quant.additional_properties = None;
    }
}

/// All that a document lists: method, path, status and media type, in a line each.
pub fn answers(document: &OpenApi) -> HashSet<String> {
    let mut answers = HashSet::new();
    let mut paths: BTreeMap<_, _> = document.paths.paths.clone();
    for (path, item) in &mut paths {
        for (method, operation) in operations(item) {
            for (status, response) in &operation.responses.responses {
                let RefOr::T(response) = response else { continue };
                let media = response.content.keys().map(String::as_str);
                let media: Vec<&str> = if response.content.is_empty() { vec![""] } else { media.collect() };
                answers.extend(media.into_iter().map(|media| answer(&method, path, status, media)));
            }
            answers.insert(format!("{method} {path}"));
        }
    }
    answers
}

/// Whether the document has this answer of a route. It does not list HEAD, nor the methods that a route has not.
pub fn has(answers: &HashSet<String>, method: &Method, path: &str, response: &Response<axum::body::Body>) -> bool {
    let path = without_marks(path);
    if !answers.contains(&format!("{method} {path}")) {
        return true;
    }
    let media = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::to_str);
    let media = media.and_then(Result::ok).unwrap_or_default();
    answers.contains(&answer(method, &path, response.status().as_str(), media))
}

fn answer(method: &Method, path: &str, status: &str, media: &str) -> String {
    let media = media.split(';').next().unwrap_or_default();
    // One form of several names.
    let media = if LINES.contains(&media) { LINES[0] } else { media };
    format!("{method} {path}: {status} {media}")
}
