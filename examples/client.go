// A client in Go: records a value exactly once, waits for its receipt, and checks that without the node.
//
//	go run examples/client.go http://localhost:5000/chains/orders [KEY]
//
// KEY is what `qbc key` prints. The chain must leap by itself (`qbc bang orders --leap-every 1s`), or somebody must ask it to.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/bits"
	"net/http"
	"os"
	"strings"
	"time"
)

// Receipt is the proof that a transaction is in a chain.
type Receipt struct {
	Chain       string `json:"chain"`
	Transaction struct {
		Index  uint64          `json:"index"`
		Hash   string          `json:"hash"`
		Salt   string          `json:"salt"`
		Data   json.RawMessage `json:"data"`
		Erased json.RawMessage `json:"erased"`
		Leaf
	} `json:"transaction"`
	Quant struct {
		Hash  string `json:"hash"`
		Proof uint64 `json:"proof"`
		Header
	} `json:"quant"`
	Path       []string `json:"path"`
	Checkpoint string   `json:"checkpoint"`
}

// Leaf and Header are what is hashed: their fields are in the order of canonical JSON (RFC 8785).
type Leaf struct {
	Commitment string `json:"commitment"`
	ID         string `json:"id,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Signature  string `json:"signature,omitempty"`
	Signer     string `json:"signer,omitempty"`
	Timestamp  string `json:"timestamp"`
}

type Header struct {
	Difficulty   int    `json:"difficulty"`
	Index        uint64 `json:"index"`
	PreviousHash string `json:"previous_hash"`
	Root         string `json:"root"`
	Size         uint64 `json:"size"`
	Timestamp    string `json:"timestamp"`
	Version      int    `json:"version"`
}

// record injects data, and returns its receipt. The id makes it safe to send it again after any failure.
func record(chain string, data any, id string) ([]byte, error) {
	request, err := json.Marshal(map[string]any{"data": data, "id": id})
	if err != nil {
		return nil, err
	}
	client := http.Client{Timeout: time.Minute}
	for ; ; time.Sleep(500 * time.Millisecond) {
		answer, err := client.Post(chain+"/inject?wait=leap", "application/json", bytes.NewReader(request))
		if err != nil {
			continue // Whether it was accepted, the next answer tells.
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		switch {
		case err != nil:
			continue
		case answer.StatusCode == 201:
			return body, nil
		case answer.StatusCode != 429 && answer.StatusCode != 503 && answer.StatusCode != 504 && answer.StatusCode != 507:
			return nil, fmt.Errorf("%s: %s", answer.Status, body)
		}
	}
}

func hash(parts ...[]byte) []byte {
	sum := sha256.Sum256(bytes.Join(parts, nil))
	return sum[:]
}

// jcs is canonical JSON of a Leaf or a Header.
func jcs(value any) []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		panic(err)
	}
	return bytes.TrimSpace(out.Bytes())
}

// verify checks a receipt, and returns the data that it proves (nil where that is erased).
func verify(text []byte, key string) (json.RawMessage, error) {
	var receipt Receipt
	if err := json.Unmarshal(text, &receipt); err != nil {
		return nil, err
	}
	transaction, quant := receipt.Transaction, receipt.Quant
	if transaction.Erased == nil {
		salt, err := hex.DecodeString(transaction.Salt)
		if err != nil {
			return nil, err
		}
		// The node serves data as canonical JSON, so these bytes are what was hashed.
		transaction.Commitment = hex.EncodeToString(hash(salt, transaction.Data))
	}
	node := hash([]byte{0}, jcs(transaction.Leaf))
	if hex.EncodeToString(node) != transaction.Hash {
		return nil, errors.New("the transaction has another hash")
	}

	// The inclusion proof (RFC 9162, section 2.1.3.2).
	if transaction.Index >= quant.Size {
		return nil, errors.New("the quant does not reach the transaction")
	}
	position, last := transaction.Index, quant.Size-1
	for _, digits := range receipt.Path {
		sibling, err := hex.DecodeString(digits)
		if err != nil || last == 0 {
			return nil, errors.New("the path is malformed")
		}
		if position%2 == 1 || position == last {
			node = hash([]byte{1}, sibling, node)
			for position%2 == 0 && position > 0 {
				position, last = position/2, last/2
			}
		} else {
			node = hash([]byte{1}, node, sibling)
		}
		position, last = position/2, last/2
	}
	if last != 0 || hex.EncodeToString(node) != quant.Root {
		return nil, errors.New("the path leads to another root")
	}

	digest := hash(hash(jcs(quant.Header)), binary.BigEndian.AppendUint64(nil, quant.Proof))
	if hex.EncodeToString(digest) != quant.Hash {
		return nil, errors.New("the quant has another hash")
	}
	if bits.LeadingZeros64(binary.BigEndian.Uint64(digest)) < quant.Difficulty {
		return nil, errors.New("the quant lacks its proof of work")
	}
	if key != "" && !isSigned(&receipt, key) {
		return nil, errors.New("the key has not signed its checkpoint")
	}
	return transaction.Data, nil
}

// isSigned tells whether the checkpoint names the chain and the quant, and has a signature by the key (C2SP signed-note).
func isSigned(receipt *Receipt, key string) bool {
	quant, parts := receipt.Quant, strings.SplitN(key, "+", 3)
	root, err := hex.DecodeString(quant.Root)
	text := fmt.Sprintf("qbc/%s\n%d\n%s\nquant %d %s\n", receipt.Chain, quant.Size, base64.StdEncoding.EncodeToString(root), quant.Index, quant.Hash)
	if err != nil || !strings.HasPrefix(receipt.Checkpoint, text+"\n") || len(parts) != 3 {
		return false
	}
	public, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(public) != 1+ed25519.PublicKeySize {
		return false
	}
	for _, line := range strings.Split(receipt.Checkpoint[len(text):], "\n") {
		words := strings.Split(line, " ")
		if len(words) != 3 || words[1] != parts[0] {
			continue
		}
		signature, err := base64.StdEncoding.DecodeString(words[2])
		if err == nil && len(signature) > 4 && hex.EncodeToString(signature[:4]) == parts[1] {
			return ed25519.Verify(public[1:], []byte(text), signature[4:])
		}
	}
	return false
}

func main() {
	chain, key := os.Args[1], strings.Join(os.Args[2:], "")
	receipt, err := record(chain, map[string]any{"order": 1017, "total": "19.90"}, "order-1017")
	if err != nil {
		log.Fatal(err)
	}
	data, err := verify(receipt, key)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("verified: %s\n", data)
	if key == "" {
		fmt.Println("(but not whose chain it is: no key was given)")
	}
	if _, err = verify(bytes.Replace(receipt, []byte("19.90"), []byte("9.90"), 1), key); err == nil {
		log.Fatal("a forged receipt was taken")
	}
	fmt.Println("forged:", err)
}
