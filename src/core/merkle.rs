//! The Merkle tree of RFC 9162 section 2.1 (the same as that of RFC 6962): its growing edge, its tiles and its proofs.
//!
//! The root of no leaves is `H("")`, a single leaf is its own root, and the root of more is the [`node`] of the roots of
//! the leaves before and from the *split*, the largest power of two below their number. A *leaf* here is always a leaf
//! hash, and an *index* counts leaves from 0.
//!
//! A subtree whose number of leaves is a power of two is *perfect*: it never changes again. So the tree is stored as
//! *tiles* of 256 hashes: tile `number` of `level` holds the roots of the perfect subtrees of 256^level leaves,
//! number × 256 and up. Level 0 holds the leaves, and the root of a complete tile is one hash of the level above. The
//! tiles that are not complete yet, at most one a level, are the [`Edge`].
//!
//! A proof is a path of hashes: [`prove_inclusion`] and [`prove_consistency`] read them from tiles, and their twins
//! [`check_inclusion`] and [`check_consistency`] need nothing but the path. What a check proves, it proves of the size
//! and the root *together*: a root alone does not tell how many leaves are below it, so take both from one signed or
//! sealed place.
//!
//! Nothing here reads or writes: whoever proves passes a *source*, `tile(level, number, width)`, which returns at least
//! the first `width` hashes of that tile, as a `Vec` or as a [`KnownTile`]. It is asked only for hashes that the tree of
//! the named size has. A source that returns fewer breaks the contract, and that is a panic; what else it can meet is its
//! own error `E`.

use std::{
    collections::hash_map::{Entry, HashMap},
    iter,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

use super::hash::{self, Hash, node};

/// How many hashes a complete tile holds.
pub const TILE_WIDTH: usize = 1 << TILE_HEIGHT;

/// A tile spans 8 levels of nodes, as in C2SP tlog-tiles.
const TILE_HEIGHT: u32 = 8;

/// How many levels of tiles a tree of 2^64 - 1 leaves has.
const LEVELS: u8 = 8;

/// A complete tile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// 0 for leaves; a hash of the level above stands for 256 hashes of this one.
    pub level: u8,
    /// Its place in its level, from 0.
    pub number: u64,
    /// Its 256 hashes.
    pub hashes: Vec<Hash>,
}

/// A tile as it is served, which remembers the roots of the perfect subtrees in it once one of them was asked for: a proof
/// needs nearly all of them. A clone is another handle to the same.
#[derive(Clone, Debug)]
pub struct KnownTile {
    hashes: Bytes,
    /// The rows above its own, each half as wide as the one below.
    above: Arc<OnceLock<Vec<Vec<Hash>>>>,
}

impl KnownTile {
    /// Its hashes, [joined].
    pub fn bytes(&self) -> &Bytes {
        &self.hashes
    }

    /// How many hashes it has.
    fn width(&self) -> usize {
        self.hashes.len() / size_of::<Hash>()
    }

    /// The root of the 2^`height` hashes from `offset` on, a multiple of that.
    fn root(&self, offset: usize, height: u32) -> Hash {
        let (hashes, _) = self.hashes.as_chunks();
        let Some(row) = height.checked_sub(1) else { return Hash::from_bytes(hashes[offset]) };
        let pairs = |below: &[Hash]| -> Vec<Hash> {
            below.as_chunks().0.iter().map(|[left, right]| node(left, right)).collect()
        };
        let above = self.above.get_or_init(|| {
            let hashes: Vec<Hash> = hashes.iter().copied().map(Hash::from_bytes).collect();
            iter::successors(Some(pairs(&hashes)), |below: &Vec<Hash>| (below.len() > 1).then(|| pairs(below)))
                .collect()
        });
        above[row as usize][offset >> height]
    }
}

impl From<Vec<Hash>> for KnownTile {
    fn from(hashes: Vec<Hash>) -> Self {
        KnownTile { hashes: joined(&hashes), above: Arc::default() }
    }
}

/// Hashes of a tile, one behind the other (C2SP tlog-tiles), 32 bytes each.
pub fn joined(hashes: &[Hash]) -> Bytes {
    let mut bytes = Vec::with_capacity(size_of_val(hashes));
    hashes.iter().for_each(|hash| bytes.extend_from_slice(hash.as_bytes()));
    bytes.into()
}

/// The growing right edge of a tree: all that its root, its growth and its next tiles depend on.
///
/// It holds fewer than 256 hashes a level, so it is small, and a clone is two copies of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    /// The incomplete tiles, the highest level first. Their widths are the digits of `size` in base 256.
    incomplete: Vec<Hash>,
    /// The roots of the largest perfect subtrees, from left to right: one for each bit that is set in `size`.
    peaks: Vec<Hash>,
}

impl Edge {
    /// The edge of the empty tree.
    pub fn new() -> Edge {
        Edge::default()
    }

    /// How many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf, and hands over each tile that it completes, the lowest level first.
    ///
    /// # Panics
    /// At the leaf number 2^64.
    pub fn push(&mut self, leaf: Hash, mut completed: impl FnMut(Tile)) {
        self.size = self.size.checked_add(1).expect("a tree has fewer than 2^64 leaves");
        self.incomplete.push(leaf);
        // Each carry into a bit of the size merges the peak that stood for the bit below.
        let mut root = leaf;
        for height in 1..=self.size.trailing_zeros() {
            let left = self.peaks.pop().expect("there is a peak for each bit");
            root = node(&left, &root);
            if height.is_multiple_of(TILE_HEIGHT) {
                let level = (height / TILE_HEIGHT - 1) as u8;
                let number = (self.size >> height) - 1;
                let hashes = self.incomplete.split_off(self.incomplete.len() - TILE_WIDTH);
                completed(Tile { level, number, hashes });
                self.incomplete.push(root);
            }
        }
        self.peaks.push(root);
    }

    /// The incomplete tile of a level: empty, or the first 1 to 255 hashes of the tile after the complete ones.
    pub fn partial(&self, level: u8) -> &[Hash] {
        let higher = (0..LEVELS).rev().take_while(|&higher| higher > level);
        let begin = higher.map(|level| last_tile(self.size, level).1).sum();
        &self.incomplete[begin..][..last_tile(self.size, level).1]
    }

    /// The root of the whole tree, in at most 63 hashes.
    pub fn root(&self) -> Hash {
        let from_the_right = self.peaks.iter().rev().copied();
        from_the_right.reduce(|right, left| node(&left, &right)).unwrap_or_else(hash::empty_root)
    }

    /// The edge of the tree of the first `size` leaves, from at most one tile a level.
    pub fn at<E>(size: u64, mut tile: impl FnMut(u8, u64, usize) -> Result<Vec<Hash>, E>) -> Result<Edge, E> {
        let mut edge = Edge { size, ..Edge::new() };
        for level in (0..LEVELS).rev() {
            let (number, width) = last_tile(size, level);
            if width == 0 {
                continue;
            }
            let hashes = read(&mut tile, level, number, width)?;
            edge.incomplete.extend(&hashes);
            let mut rest = hashes.as_slice();
            while !rest.is_empty() {
                let (perfect, others) = rest.split_at(1 << rest.len().ilog2());
                edge.peaks.push(perfect_root(perfect));
                rest = others;
            }
        }
        Ok(edge)
    }

    /// The source of all tiles of this tree: complete ones from `stored(level, number)`, the others from the edge.
    pub fn source<T: From<Vec<Hash>>, E>(
        &self,
        mut stored: impl FnMut(u8, u64) -> Result<T, E>,
    ) -> impl FnMut(u8, u64, usize) -> Result<T, E> {
        move |level, number, _| {
            let (last, _) = last_tile(self.size, level);
            if number < last {
                return stored(level, number);
            }
            assert_eq!(number, last, "level {level} of a tree of {} leaves ends before that tile", self.size);
            Ok(self.partial(level).to_vec().into())
        }
    }
}

/// The root of a perfect subtree from the hashes of one of its levels; that of a complete tile is its hash in the level
/// above.
///
/// # Panics
/// If the number of hashes is not a power of two.
pub fn perfect_root(hashes: &[Hash]) -> Hash {
    assert!(hashes.len().is_power_of_two(), "{} hashes are no level of a perfect subtree", hashes.len());
    match hashes {
        [root] => *root,
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            node(&perfect_root(left), &perfect_root(right))
        }
    }
}

/// The root of the first `size` leaves.
pub fn root<E>(size: u64, tile: impl FnMut(u8, u64, usize) -> Result<Vec<Hash>, E>) -> Result<Hash, E> {
    Ok(Edge::at(size, tile)?.root())
}

/// The inclusion proof of the leaf at `index` in the tree of the first `size` leaves: PATH of RFC 9162 section 2.1.3.1.
///
/// It reads at most two tiles a level, each once.
///
/// # Panics
/// If `index` is not below `size`.
pub fn prove_inclusion<T: Into<KnownTile>, E>(
    index: u64,
    size: u64,
    tile: impl FnMut(u8, u64, usize) -> Result<T, E>,
) -> Result<Vec<Hash>, E> {
    assert!(index < size, "no leaf {index} in a tree of {size} leaves");
    let mut tiles = Tiles::new(size, tile);
    let (mut begin, mut end) = (0, size);
    let mut path = Vec::new();
    while end - begin > 1 {
        let middle = begin + split(end - begin);
        if index < middle {
            path.push(tiles.subtree(middle, end)?);
            end = middle;
        } else {
            path.push(tiles.subtree(begin, middle)?);
            begin = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// Checks that `leaf` is at `index` of the `size` leaves below `root`: RFC 9162 section 2.1.3.2.
pub fn check_inclusion(leaf: Hash, index: u64, size: u64, path: &[Hash], root: Hash) -> Result<(), ProofError> {
    ensure(index < size, ProofError::NoSuchLeaf { index, size })?;
    let mut climb = Climb { node: index, last: size - 1 };
    let mut reached = leaf;
    for hash in path {
        reached = match climb.sibling()? {
            Side::Left => node(hash, &reached),
            Side::Right => node(&reached, hash),
        };
    }
    climb.end()?;
    ensure(reached == root, ProofError::WrongRoot)
}

/// The proof that the first `to` leaves begin with the first `from`: PROOF of RFC 9162 section 2.1.4.1.
///
/// It is empty for `from == 0` and `from == to`, of which the RFC does not speak. It reads at most two tiles a level,
/// each once.
///
/// # Panics
/// If `from` is above `to`.
pub fn prove_consistency<T: Into<KnownTile>, E>(
    from: u64,
    to: u64,
    tile: impl FnMut(u8, u64, usize) -> Result<T, E>,
) -> Result<Vec<Hash>, E> {
    assert!(from <= to, "a tree of {to} leaves does not extend one of {from}");
    let mut path = Vec::new();
    if from == 0 {
        return Ok(path);
    }
    let mut tiles = Tiles::new(to, tile);
    let (mut begin, mut end) = (0, to);
    while end != from {
        let middle = begin + split(end - begin);
        if from <= middle {
            path.push(tiles.subtree(middle, end)?);
            end = middle;
        } else {
            path.push(tiles.subtree(begin, middle)?);
            begin = middle;
        }
    }
    // Where the way never turned right, the last subtree is the whole older tree, and who checks has its root.
    if begin != 0 {
        path.push(tiles.subtree(begin, end)?);
    }
    path.reverse();
    Ok(path)
}

/// Checks that the `to` leaves below `to_root` begin with the `from` leaves below `from_root`: RFC 9162 section 2.1.4.2.
///
/// Every tree begins with the empty tree and with itself, so for those only the roots are compared, and the path must
/// be empty.
pub fn check_consistency(from: u64, to: u64, path: &[Hash], from_root: Hash, to_root: Hash) -> Result<(), ProofError> {
    ensure(from <= to, ProofError::Shrinks { from, to })?;
    if from == 0 || from == to {
        ensure(path.is_empty(), ProofError::TooLong)?;
        let empty = from != 0 || from_root == hash::empty_root();
        let same = from != to || from_root == to_root;
        return ensure(empty && same, ProofError::WrongRoot);
    }
    let (older, newer) = roots_of_path(from, to, path, from_root)?;
    ensure(older == from_root && newer == to_root, ProofError::WrongRoot)
}

/// The root of the first `from` leaves below `to_root`, as a consistency path itself shows it: where it is another one than
/// somebody vouches for, the path proves that the two roots are of different histories.
///
/// That of a perfect tree a consistency path leaves to whoever checks: here it must stand before the path. `None` where the path
/// does not lead to `to_root`; neither the empty tree nor the same one has a path.
pub fn older_root(from: u64, to: u64, path: &[Hash], to_root: Hash) -> Option<Hash> {
    if from == 0 || from >= to {
        return None;
    }
    let (perfect, path) = match path {
        [root, rest @ ..] if from.is_power_of_two() => (*root, rest),
        path => (Hash::ZERO, path),
    };
    let (older, newer) = roots_of_path(from, to, path, perfect).ok()?;
    (newer == to_root).then_some(older)
}

/// The roots of the older and of the newer tree to which a consistency path leads, with `perfect` for that of the older tree
/// where the path leaves it out.
fn roots_of_path(from: u64, to: u64, path: &[Hash], perfect: Hash) -> Result<(Hash, Hash), ProofError> {
    // A perfect older tree is a node of the newer one, so the path does not repeat its root.
    let (first, rest) = match path {
        _ if from.is_power_of_two() => (perfect, path),
        [first, rest @ ..] => (*first, rest),
        [] => return Err(ProofError::TooShort),
    };
    let height = (from - 1).trailing_ones();
    let mut climb = Climb { node: (from - 1) >> height, last: (to - 1) >> height };
    let (mut older, mut newer) = (first, first);
    for hash in rest {
        match climb.sibling()? {
            Side::Left => (older, newer) = (node(hash, &older), node(hash, &newer)),
            Side::Right => newer = node(&newer, hash),
        }
    }
    climb.end()?;
    Ok((older, newer))
}

/// Why a proof is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// It is about a leaf that the tree does not have.
    #[error("there is no leaf {index} in a tree of {size} leaves")]
    NoSuchLeaf {
        /// The leaf's index.
        index: u64,
        /// How many leaves the tree has.
        size: u64,
    },
    /// It is about a newer tree that is smaller than the older one.
    #[error("a tree of {to} leaves does not extend one of {from}")]
    Shrinks {
        /// How many leaves the older tree has.
        from: u64,
        /// How many leaves the newer tree has.
        to: u64,
    },
    /// The path ends below the root.
    #[error("the path is too short")]
    TooShort,
    /// The path goes on above the root.
    #[error("the path is too long")]
    TooLong,
    /// The path leads to another root than the one given.
    #[error("the path leads to another root")]
    WrongRoot,
}

fn ensure(holds: bool, otherwise: ProofError) -> Result<(), ProofError> {
    if holds { Ok(()) } else { Err(otherwise) }
}

/// On which side of the node reached a path's next hash stands.
enum Side {
    Left,
    Right,
}

/// A way from a node up to the root: `fn` and `sn` of RFC 9162 sections 2.1.3.2 and 2.1.4.2.
struct Climb {
    /// The node reached, counted from the left in its row.
    node: u64,
    /// The last node of that row; 0 at the root.
    last: u64,
}

impl Climb {
    /// The side of the next sibling; the climb goes on at the parent.
    fn sibling(&mut self) -> Result<Side, ProofError> {
        ensure(self.last != 0, ProofError::TooLong)?;
        let side = if self.node % 2 == 1 || self.node == self.last { Side::Left } else { Side::Right };
        if let Side::Left = side {
            // A last node without a sibling rises unchanged to the first row where it has one. It is not node 0, for
            // then it would be the root.
            let rows = self.node.trailing_zeros();
            self.node >>= rows;
            self.last >>= rows;
        }
        self.node /= 2;
        self.last /= 2;
        Ok(side)
    }

    /// The path is at its end, and so the climb must be.
    fn end(self) -> Result<(), ProofError> {
        ensure(self.last == 0, ProofError::TooShort)
    }
}

/// The tiles that one proof reads, each of them once.
struct Tiles<F> {
    /// The size of the tree that the proof is about.
    size: u64,
    source: F,
    read: HashMap<(u8, u64), KnownTile>,
}

impl<T: Into<KnownTile>, E, F: FnMut(u8, u64, usize) -> Result<T, E>> Tiles<F> {
    fn new(size: u64, source: F) -> Self {
        let read = HashMap::new();
        Tiles { size, source, read }
    }

    /// The root of the leaves `begin..end`, which splitting the whole tree leads to.
    fn subtree(&mut self, begin: u64, end: u64) -> Result<Hash, E> {
        let count = end - begin;
        if count.is_power_of_two() {
            return self.perfect_subtree(begin, count.trailing_zeros());
        }
        let middle = begin + split(count);
        Ok(node(&self.subtree(begin, middle)?, &self.subtree(middle, end)?))
    }

    /// The root of the 2^height leaves from `begin` on, from the one tile that has their highest stored hashes.
    fn perfect_subtree(&mut self, begin: u64, height: u32) -> Result<Hash, E> {
        let level = (height / TILE_HEIGHT) as u8;
        let first = level_width(begin, level);
        let number = first / TILE_WIDTH as u64;
        let (last, partial_width) = last_tile(self.size, level);
        let width = if number < last { TILE_WIDTH } else { partial_width };
        let tile = match self.read.entry((level, number)) {
            Entry::Occupied(tile) => tile.into_mut(),
            Entry::Vacant(entry) => {
                let tile: KnownTile = (self.source)(level, number, width)?.into();
                ensure_width(tile.width(), level, number, width);
                entry.insert(tile)
            }
        };
        Ok(tile.root((first % TILE_WIDTH as u64) as usize, height % TILE_HEIGHT))
    }
}

/// Exactly the first `width` hashes of a tile.
fn read<E>(
    source: &mut impl FnMut(u8, u64, usize) -> Result<Vec<Hash>, E>,
    level: u8,
    number: u64,
    width: usize,
) -> Result<Vec<Hash>, E> {
    let mut hashes = source(level, number, width)?;
    ensure_width(hashes.len(), level, number, width);
    hashes.truncate(width);
    Ok(hashes)
}

/// A source keeps its contract.
fn ensure_width(has: usize, level: u8, number: u64, width: usize) {
    assert!(has >= width, "tile {number} of level {level} has {has} of {width} hashes");
}

/// The largest power of two below `count`, which is at least 2.
fn split(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}

/// How many hashes a level of tiles has in a tree of `size` leaves.
fn level_width(size: u64, level: u8) -> u64 {
    size.checked_shr(TILE_HEIGHT * u32::from(level)).unwrap_or(0)
}

/// Whether a tree of `size` leaves has the first `width` hashes of this tile.
pub fn has_tile(size: u64, level: u8, number: u64, width: usize) -> bool {
    let (complete, partial) = last_tile(size, level);
    width <= TILE_WIDTH && (number < complete || number == complete && width <= partial)
}

/// How many complete tiles a level has, which is the number of its incomplete one, and that one's width: 0 to 255.
fn last_tile(size: u64, level: u8) -> (u64, usize) {
    let hashes = level_width(size, level);
    (hashes / TILE_WIDTH as u64, (hashes % TILE_WIDTH as u64) as usize)
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::HashSet, convert::Infallible, sync::LazyLock};

    use ct_merkle::mem_backed_tree::MemoryBackedTree;
    use proptest::prelude::*;
    use sha2::Sha256;

    use super::*;

    /// The sizes around which tiles fill up on one level and on two.
    const TURNS: [u64; 9] = [254, 255, 256, 257, 511, 65535, 65536, 65537, 65836];

    /// A large tree with all its tiles; every smaller tree is a part of it.
    static WHOLE: LazyLock<Whole> = LazyLock::new(|| Whole::grow(65836));

    struct Whole {
        leaves: Vec<Hash>,
        edge: Edge,
        tiles: HashMap<(u8, u64), Vec<Hash>>,
    }

    impl Whole {
        fn grow(size: u64) -> Whole {
            let leaves: Vec<Hash> = (0..size).map(leaf).collect();
            let (mut edge, mut tiles) = (Edge::new(), HashMap::new());
            for leaf in &leaves {
                edge.push(*leaf, |tile| {
                    assert_eq!(tiles.insert((tile.level, tile.number), tile.hashes), None, "a tile is completed once");
                });
            }
            Whole { leaves, edge, tiles }
        }

        /// The source of a tree of `size` leaves, which insists on the contract: nothing beyond `size`, nothing twice.
        fn source(&self, size: u64) -> impl FnMut(u8, u64, usize) -> Result<Vec<Hash>, Infallible> {
            let mut whole = self.edge.source(|level, number| Ok(self.tiles[&(level, number)].clone()));
            let mut asked = HashSet::new();
            move |level, number, width| {
                assert!(asked.insert((level, number)), "tile {number} of level {level} was asked for twice");
                let end = number * 256 + width as u64;
                assert!(width > 0 && width <= 256 && end << (8 * level) <= size, "{level}/{number}: {width} of {size}");
                whole(level, number, width)
            }
        }

        /// The same as tiles that are kept.
        fn known(&self, size: u64) -> impl FnMut(u8, u64, usize) -> Result<KnownTile, Infallible> {
            let mut tiles = self.source(size);
            move |level, number, width| tiles(level, number, width).map(KnownTile::from)
        }
    }

    fn leaf(index: u64) -> Hash {
        hash::leaf(&index.to_be_bytes())
    }

    /// MTH of RFC 9162 section 2.1.1, word by word.
    fn mth(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => hash::empty_root(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = halves(leaves);
                node(&mth(left), &mth(right))
            }
        }
    }

    /// PATH of RFC 9162 section 2.1.3.1, word by word.
    fn path(m: u64, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() == 1 {
            return vec![];
        }
        let (left, right) = halves(leaves);
        let k = left.len() as u64;
        if m < k { [path(m, left), vec![mth(right)]].concat() } else { [path(m - k, right), vec![mth(left)]].concat() }
    }

    /// SUBPROOF of RFC 9162 section 2.1.4.1, word by word; and for a tree of no leaves, what this file defines.
    fn subproof(m: u64, leaves: &[Hash], whole: bool) -> Vec<Hash> {
        if m == 0 {
            return vec![];
        }
        if m == leaves.len() as u64 {
            return if whole { vec![] } else { vec![mth(leaves)] };
        }
        let (left, right) = halves(leaves);
        let k = left.len() as u64;
        if m <= k {
            [subproof(m, left, whole), vec![mth(right)]].concat()
        } else {
            [subproof(m - k, right, false), vec![mth(left)]].concat()
        }
    }

    fn halves(leaves: &[Hash]) -> (&[Hash], &[Hash]) {
        let mut k = 1;
        while k * 2 < leaves.len() {
            k *= 2;
        }
        leaves.split_at(k)
    }

    fn flip(hash: Hash, bit: usize) -> Hash {
        let mut bytes = *hash.as_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        Hash::from_bytes(bytes)
    }

    /// Every damage of a path and of the hashes that it stands between must be refused, and for the right reason.
    fn damage(path: &[Hash], hashes: [Hash; 2], check: impl Fn(&[Hash], [Hash; 2]) -> Result<(), ProofError>) {
        assert_eq!(check(path, hashes), Ok(()));
        for place in 0..path.len() {
            for bit in 0..8 {
                let mut path = path.to_vec();
                path[place] = flip(path[place], 8 * (place % 32) + bit);
                assert_eq!(check(&path, hashes), Err(ProofError::WrongRoot));
            }
        }
        for bit in [0, 100, 255] {
            assert_eq!(check(path, [flip(hashes[0], bit), hashes[1]]), Err(ProofError::WrongRoot));
            assert_eq!(check(path, [hashes[0], flip(hashes[1], bit)]), Err(ProofError::WrongRoot));
        }
        for extra in [hashes[0], hashes[1], Hash::ZERO] {
            assert_eq!(check(&[path, &[extra]].concat(), hashes), Err(ProofError::TooLong));
            assert_eq!(check(&[&[extra], path].concat(), hashes), Err(ProofError::TooLong));
        }
        if let [rest @ .., _] = path {
            assert_eq!(check(rest, hashes), Err(ProofError::TooShort));
            assert_eq!(check(&path[1..], hashes), Err(ProofError::TooShort));
            assert_eq!(check(&[], hashes), Err(ProofError::TooShort));
        }
    }

    fn inclusion_holds(whole: &Whole, index: u64, size: u64, tree_root: Hash) -> Vec<Hash> {
        let Ok(proof) = prove_inclusion(index, size, whole.source(size));
        assert_eq!(proof, path(index, &whole.leaves[..size as usize]), "leaf {index} of {size}");
        assert_eq!(prove_inclusion(index, size, whole.known(size)).as_ref(), Ok(&proof));
        damage(&proof, [leaf(index), tree_root], |path, [leaf, root]| check_inclusion(leaf, index, size, path, root));
        proof
    }

    fn consistency_holds(whole: &Whole, from: u64, to: u64, roots: [Hash; 2]) -> Vec<Hash> {
        let Ok(proof) = prove_consistency(from, to, whole.source(to));
        assert_eq!(proof, subproof(from, &whole.leaves[..to as usize], true), "{from} to {to}");
        assert_eq!(prove_consistency(from, to, whole.known(to)).as_ref(), Ok(&proof));
        if from > 0 {
            damage(&proof, roots, |path, [older, newer]| check_consistency(from, to, path, older, newer));
        }
        proof
    }

    #[test]
    fn every_inclusion_proof_up_to_size_100() {
        let whole = Whole::grow(100);
        let roots: Vec<Hash> = (0..=100).map(|size| mth(&whole.leaves[..size])).collect();
        for size in 0..=100 {
            for index in 0..size {
                let proof = inclusion_holds(&whole, index, size, roots[size as usize]);
                for other in 0..size + 2 {
                    let at_other = check_inclusion(leaf(index), other, size, &proof, roots[size as usize]);
                    assert_eq!(at_other.is_ok(), other == index);
                }
                for other in 0..=100 {
                    let in_other = check_inclusion(leaf(index), index, other, &proof, roots[other as usize]);
                    assert_eq!(in_other.is_ok(), other == size);
                }
            }
            let beyond = check_inclusion(leaf(size), size, size, &[], roots[size as usize]);
            assert_eq!(beyond, Err(ProofError::NoSuchLeaf { index: size, size }));
        }
    }

    #[test]
    fn every_consistency_proof_up_to_size_100() {
        let whole = Whole::grow(100);
        let roots: Vec<Hash> = (0..=100).map(|size| mth(&whole.leaves[..size])).collect();
        let check = |from: u64, to: u64, path: &[Hash]| {
            check_consistency(from, to, path, roots[from as usize], roots[to as usize])
        };
        for to in 0..=100 {
            for from in 0..=to {
                let proof = consistency_holds(&whole, from, to, [roots[from as usize], roots[to as usize]]);
                assert_eq!(check(from, to, &proof), Ok(()));
                if from > 0 && from < to {
                    for other in 0..=100 {
                        assert_eq!(check(other, to, &proof).is_ok(), other == from);
                        assert_eq!(check(from, other, &proof).is_ok(), other == to);
                    }
                }
            }
            assert_eq!(check(to, 0, &[]).err(), (to > 0).then_some(ProofError::Shrinks { from: to, to: 0 }));
            assert_eq!(check(0, to, &[Hash::ZERO]), Err(ProofError::TooLong));
            assert_eq!(check_consistency(0, to, &[], roots[1], roots[1]), Err(ProofError::WrongRoot));
        }
    }

    #[test]
    fn proofs_over_several_tiles_and_levels() {
        let whole = &*WHOLE;
        for size in TURNS {
            let newer = mth(&whole.leaves[..size as usize]);
            assert_eq!(root(size, whole.source(size)), Ok(newer));
            for index in [0, 1, 100, 255, 256, 300, 32767, 65279, 65280, 65535, 65536, size / 2, size - 1] {
                if index < size {
                    inclusion_holds(whole, index, size, newer);
                    consistency_holds(whole, index + 1, size, [mth(&whole.leaves[..=index as usize]), newer]);
                }
            }
        }
    }

    #[test]
    fn tiles_hold_the_roots_of_perfect_subtrees() {
        let whole = &*WHOLE;
        let per_level = |level| whole.tiles.keys().filter(|key| key.0 == level).count();
        assert_eq!([per_level(0), per_level(1), per_level(2)], [257, 1, 0]);
        let levels: [&[Hash]; 4] = [0, 1, 2, 3].map(|level| whole.edge.partial(level));
        assert_eq!(levels.map(<[Hash]>::len), [44, 1, 1, 0]);
        assert_eq!(levels[0], &whole.leaves[65792..]);
        assert_eq!(levels[1], [mth(&whole.leaves[65536..65792])]);
        assert_eq!(levels[2], [mth(&whole.leaves[..65536])]);
        assert_eq!([8, 9, 255].map(|level| whole.edge.partial(level).len()), [0; 3]);
        for number in 0..257 {
            let leaves = &whole.leaves[number * 256..][..256];
            assert_eq!(whole.tiles[&(0, number as u64)], leaves);
            let above = if number < 256 { whole.tiles[&(1, 0)][number] } else { levels[1][0] };
            assert_eq!(above, mth(leaves));
            assert_eq!(above, perfect_root(leaves));
        }
    }

    #[test]
    fn one_leaf_can_complete_tiles_of_many_levels() {
        // The 2^56th leaf fills every level at once.
        let uniform = Uniform::new();
        let Ok(mut edge) = Edge::at((1 << 56) - 1, |level, _, width| uniform.tile(level, width));
        let mut tiles = Vec::new();
        edge.push(uniform.0[0], |tile| tiles.push(tile));
        for (level, tile) in tiles.iter().enumerate() {
            let number = (1 << (48 - 8 * level)) - 1;
            assert_eq!(*tile, Tile { level: level as u8, number, hashes: vec![uniform.0[8 * level]; 256] });
        }
        assert_eq!(tiles.len(), 7);
        assert_eq!(edge.partial(7), [uniform.0[56]]);
        assert_eq!(edge.root(), uniform.0[56]);
    }

    #[test]
    fn the_edge_is_rebuilt_from_complete_tiles_and_the_leaves_after_them() {
        let whole = &*WHOLE;
        for size in TURNS {
            let complete = size / 256 * 256;
            let below = |level: u8, number, width| {
                let tiles = (number * 256..).take(width).map(|number| &whole.tiles[&(level - 1, number)]);
                Ok(tiles.map(|hashes| perfect_root(hashes)).collect())
            };
            let Ok::<_, Infallible>(mut edge) = Edge::at(complete, below);
            whole.leaves[complete as usize..size as usize].iter().for_each(|leaf| edge.push(*leaf, |_| {}));
            assert_eq!(Ok(edge), Edge::at(size, whole.source(size)));
        }
    }

    #[test]
    fn another_implementation_agrees() {
        let whole = Whole::grow(600);
        let mut tree = MemoryBackedTree::<Sha256, [u8; 8]>::new();
        let sizes: Vec<u64> = (1..=70u64).chain(253..=259).chain(510..=514).chain([600]).collect();
        for size in 1..=600u64 {
            tree.push((size - 1).to_be_bytes());
            let Ok(own_root) = root(size, whole.source(size));
            assert_eq!(own_root.as_bytes()[..], tree.root().as_bytes()[..]);
            if !sizes.contains(&size) {
                continue;
            }
            for index in 0..size {
                let Ok(path) = prove_inclusion(index, size, whole.source(size));
                assert_eq!(bytes(&path), tree.prove_inclusion(index as usize).as_bytes());
            }
            for from in 1..=size {
                let Ok(path) = prove_consistency(from, size, whole.source(size));
                let theirs = tree.prove_consistency((size - from) as usize);
                assert_eq!(bytes(&path), theirs.as_bytes(), "{from} to {size}");
            }
        }
    }

    /// A path is one history's alone: it says the older root itself, and any other path says nothing.
    #[test]
    fn a_consistency_path_convicts_whoever_vouches_for_another_older_root() {
        let whole = Whole::grow(70);
        for (from, to) in (0..=70u64).flat_map(|to| (0..=to).map(move |from| (from, to))) {
            let [Ok(older), Ok(newer)] = [from, to].map(|size| root(size, whole.source(size)));
            let Ok(path) = prove_consistency(from, to, whole.source(to));
            let says = from > 0 && from < to && !from.is_power_of_two();
            assert_eq!(older_root(from, to, &path, newer), says.then_some(older), "{from} to {to}");
            for at in 0..path.len() {
                let mut other = path.clone();
                other[at] = node(&other[at], &other[at]);
                assert_eq!(older_root(from, to, &other, newer), None);
                assert_eq!(older_root(from, to, &path[..at], newer), None);
            }
            if from > 0 && from < to && from.is_power_of_two() {
                let with_root = [&[older], &path[..]].concat();
                assert_eq!(older_root(from, to, &with_root, newer), Some(older));
                let wrong = [&[node(&older, &older)], &path[..]].concat();
                assert_eq!(older_root(from, to, &wrong, newer), None);
            }
            assert_eq!(older_root(from, to, &path, older), None);
            assert_eq!(older_root(to, from, &path, newer), None);
        }
    }

    fn bytes(path: &[Hash]) -> Vec<u8> {
        path.iter().flat_map(|hash| *hash.as_bytes()).collect()
    }

    /// A tree of equal leaves: one hash a height, so that it has tiles at any size.
    struct Uniform([Hash; 64]);

    impl Uniform {
        fn new() -> Uniform {
            let mut hashes = [leaf(0); 64];
            for height in 1..64 {
                hashes[height] = node(&hashes[height - 1], &hashes[height - 1]);
            }
            Uniform(hashes)
        }

        fn tile(&self, level: u8, width: usize) -> Result<Vec<Hash>, Infallible> {
            Ok(vec![self.0[usize::from(level) * 8]; width])
        }
    }

    #[test]
    fn the_largest_sizes_do_not_overflow() {
        let uniform = Uniform::new();
        let tile = |level, _, width| uniform.tile(level, width);
        let sizes = [u64::MAX, u64::MAX - 1, u64::MAX - 255, (1 << 63) + 1, 1 << 63, (1 << 63) - 1, (1 << 62) + 7];
        for size in sizes {
            let Ok(newer) = root(size, tile);
            for index in [0, 1, 256, 1 << 32, (1 << 62) - 1, 1 << 62, size / 2, size - 2, size - 1] {
                let Ok(path) = prove_inclusion(index, size, tile);
                damage(&path, [uniform.0[0], newer], |path, [leaf, root]| {
                    check_inclusion(leaf, index, size, path, root)
                });
                let from = index + 1;
                let Ok(older) = root(from, tile);
                let Ok(path) = prove_consistency(from, size, tile);
                damage(&path, [older, newer], |path, [older, newer]| check_consistency(from, size, path, older, newer));
            }
            assert_eq!(prove_consistency(0, size, tile), Ok(vec![]));
            let beyond = check_inclusion(newer, u64::MAX, size, &[], newer);
            assert_eq!(beyond, Err(ProofError::NoSuchLeaf { index: u64::MAX, size }));
        }
    }

    #[test]
    #[should_panic(expected = "fewer than 2^64 leaves")]
    fn a_tree_is_never_larger_than_its_size_can_tell() {
        let uniform = Uniform::new();
        let Ok(mut edge) = Edge::at(u64::MAX, |level, _, width| uniform.tile(level, width));
        edge.push(uniform.0[0], |_| {});
    }

    #[test]
    #[should_panic(expected = "tile 0 of level 0 has 1 of 3 hashes")]
    fn a_source_that_returns_too_little_is_found_out() {
        let _ = prove_inclusion(1, 3, |_, _, _| Ok::<_, Infallible>(vec![leaf(0)]));
    }

    #[test]
    #[should_panic(expected = "ends before that tile")]
    fn an_edge_is_no_source_for_a_larger_tree() {
        let mut edge = Edge::new();
        edge.push(leaf(0), |_| {});
        let _ = prove_inclusion(0, 257, edge.source(|_, _| Ok::<_, Infallible>(vec![])));
    }

    #[test]
    fn the_error_of_a_source_comes_through() {
        for good in 0..2 {
            let asked = RefCell::new(0);
            let tile = |_, _, width| {
                let asked = asked.replace_with(|asked| *asked + 1);
                if asked < good { Ok(vec![leaf(0); width]) } else { Err("the disk is gone") }
            };
            assert_eq!(root(300, tile), Err("the disk is gone"));
            asked.replace(0);
            assert_eq!(prove_inclusion(0, 300, tile), Err("the disk is gone"));
            asked.replace(0);
            assert_eq!(prove_consistency(257, 300, tile), Err("the disk is gone"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn an_edge_from_tiles_is_the_pushed_one(
            size in prop_oneof![0..600u64, 65_000..65_836u64, 0..65_836u64],
            more in 0..1000u64,
        ) {
            let whole = &*WHOLE;
            let pushed = Whole::grow(size).edge;
            let Ok(mut edge) = Edge::at(size, whole.source(size));
            prop_assert_eq!(&edge, &pushed);
            prop_assert_eq!(edge.size(), size);
            prop_assert_eq!(edge.root(), mth(&whole.leaves[..size as usize]));

            let later = (size + more).min(whole.edge.size());
            for leaf in &whole.leaves[size as usize..later as usize] {
                edge.push(*leaf, |tile| assert_eq!(whole.tiles[&(tile.level, tile.number)], tile.hashes));
            }
            prop_assert_eq!(Ok(edge), Edge::at(later, whole.source(later)));
        }
    }
}
