// A client that shares no code with QBC: Go's sumdb/note opens the checkpoint, and Go's sumdb/tlog proves, from tiles alone,
// that entries are in the log and that the log only grew.
//
// Usage: tlog URL VERIFIER_KEY OLD_SIZE OLD_ROOT INDEX...
package main

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var url = os.Args[1]

func main() {
	verifier, err := note.NewVerifier(os.Args[2])
	check(err)
	opened, err := note.Open(get("/checkpoint"), note.VerifierList(verifier))
	check(err)
	tree := parse(opened.Text)
	hashes := tlog.TileHashReader(tree, tiles{})

	old := tlog.Tree{N: number(os.Args[3])}
	old.Hash, err = tlog.ParseHash(os.Args[4])
	check(err)
	grown, err := tlog.ProveTree(tree.N, old.N, hashes)
	check(err)
	check(tlog.CheckTree(grown, tree.N, tree.Hash, old.N, old.Hash))

	for _, argument := range os.Args[5:] {
		index := number(argument)
		proof, err := tlog.ProveRecord(tree.N, index, hashes)
		check(err)
		check(tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry(tree.N, index))))
	}
	fmt.Printf("%d signatures by %s, %d entries proven in %d\n", len(opened.Sigs), opened.Sigs[0].Name, len(os.Args)-5, tree.N)
}

// tiles reads them as C2SP tlog-tiles names them; sumdb has the height in its paths.
type tiles struct{}

func (tiles) Height() int { return 8 }

func (tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range wanted {
		path := strings.TrimPrefix(tile.Path(), "tile/8")
		all = append(all, get("/tile"+path))
	}
	return all, nil
}

func (tiles) SaveTiles([]tlog.Tile, [][]byte) {}

// entry reads the bundle that has this entry.
func entry(size, index int64) []byte {
	tile := tlog.Tile{H: 8, L: 0, N: index / 256, W: 256}
	if (tile.N+1)*256 > size {
		tile.W = int(size % 256)
	}
	bundle := get("/tile/entries" + strings.TrimPrefix(tile.Path(), "tile/8/0"))
	for skip := index % 256; ; skip-- {
		length := int(binary.BigEndian.Uint16(bundle))
		if skip == 0 {
			return bundle[2 : 2+length]
		}
		bundle = bundle[2+length:]
	}
}

func parse(text string) tlog.Tree {
	lines := strings.Split(text, "\n")
	root, err := base64.StdEncoding.DecodeString(lines[2])
	check(err)
	tree := tlog.Tree{N: number(lines[1])}
	copy(tree.Hash[:], root)
	return tree
}

func get(path string) []byte {
	response, err := http.Get(url + path)
	check(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	check(err)
	if response.StatusCode != 200 {
		log.Fatalf("%s: %s: %s", path, response.Status, body)
	}
	return body
}

func number(text string) int64 {
	number, err := strconv.ParseInt(text, 10, 64)
	check(err)
	return number
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
