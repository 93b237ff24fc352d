// Command readlog reads a log directory with golang.org/x/mod/sumdb and prints what it found as JSON.
//
//	readlog -dir DIR -vkey VKEY [-old N] [-sample N] [-consistency FILE] [-proof FILE -entry FILE]
//
// It shares no code with the program that wrote the log: the note, the tree hashes and the proofs are those
// of sumdb/note and sumdb/tlog, the paths and bundles are read after c2sp.org/tlog-tiles. Exit status 1 and
// one line on the standard error tell the first thing that does not fit.
package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const width = 256

type head struct {
	origin string
	tree   tlog.Tree
}

// report is the answer on the standard output.
type report struct {
	Origin      string `json:"origin"`
	Size        int64  `json:"size"`
	Root        string `json:"root"`
	Entries     int64  `json:"entries"`
	Tiles       int    `json:"tiles"`
	Inclusions  int    `json:"inclusions"`
	OldRoot     string `json:"old_root"`
	Consistency bool   `json:"consistency"`
	Proof       bool   `json:"proof"`
}

// store holds the tree as sumdb numbers its hashes.
type store []tlog.Hash

func (s store) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, 0, len(indexes))
	for _, index := range indexes {
		if index >= int64(len(s)) {
			return nil, fmt.Errorf("hash %d is not stored", index)
		}
		hashes = append(hashes, s[index])
	}
	return hashes, nil
}

// directory gives the tiles of a log directory to sumdb.
type directory string

func (d directory) Height() int { return 8 }

func (d directory) SaveTiles([]tlog.Tile, [][]byte) {}

func (d directory) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		data, err := os.ReadFile(filepath.Join(string(d), tilePath(strconv.Itoa(tile.L), tile.N, tile.W)))
		if err != nil {
			return nil, err
		}
		if len(data) != tile.W*tlog.HashSize {
			return nil, fmt.Errorf("tile %v has %d octets", tile, len(data))
		}
		all = append(all, data)
	}
	return all, nil
}

func tilePath(level string, index int64, w int) string {
	path := fmt.Sprintf("%03d", index%1000)
	for index >= 1000 {
		index /= 1000
		path = fmt.Sprintf("x%03d/%s", index%1000, path)
	}
	path = "tile/" + level + "/" + path
	if w != width {
		path += ".p/" + strconv.Itoa(w)
	}
	return path
}

func treeHash(n int64, reader tlog.HashReader) (tlog.Hash, error) {
	if n == 0 { // sumdb has no empty tree; RFC 6962 does
		return sha256.Sum256(nil), nil
	}
	return tlog.TreeHash(n, reader)
}

func openHead(data []byte, vkey string) (head, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return head{}, err
	}
	opened, err := note.Open(data, note.VerifierList(verifier))
	if err != nil {
		return head{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return head{}, fmt.Errorf("the checkpoint does not have three lines: %q", opened.Text)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || strconv.FormatInt(size, 10) != lines[1] || size < 0 {
		return head{}, fmt.Errorf("the size is %q", lines[1])
	}
	hash, err := tlog.ParseHash(lines[2])
	if err != nil {
		return head{}, err
	}
	return head{lines[0], tlog.Tree{N: size, Hash: hash}}, nil
}

// readEntries calls use for every entry of every bundle, in order.
func readEntries(dir string, size int64, use func(index int64, entry []byte) error) error {
	for first := int64(0); first < size; first += width {
		w := width
		if size-first < width {
			w = int(size - first)
		}
		data, err := os.ReadFile(filepath.Join(dir, tilePath("entries", first/width, w)))
		if err != nil {
			return err
		}
		for i := 0; i < w; i++ {
			if len(data) < 2 || len(data) < 2+int(binary.BigEndian.Uint16(data)) {
				return fmt.Errorf("the bundle at %d ends inside entry %d", first, i)
			}
			end := 2 + int(binary.BigEndian.Uint16(data))
			if err := use(first+int64(i), data[2:end]); err != nil {
				return err
			}
			data = data[end:]
		}
		if len(data) != 0 {
			return fmt.Errorf("the bundle at %d goes on after its last entry", first)
		}
	}
	return nil
}

// checkTiles compares every tile file with the hashes made from the entries.
func checkTiles(dir directory, size int64, hashes store) (int, error) {
	count := 0
	for level := 0; size>>(8*uint(level)) > 0; level++ {
		total := size >> (8 * uint(level))
		for first := int64(0); first < total; first += width {
			tile := tlog.Tile{H: 8, L: level, N: first / width, W: width}
			if total-first < width {
				tile.W = int(total - first)
			}
			data, err := dir.ReadTiles([]tlog.Tile{tile})
			if err != nil {
				return count, err
			}
			want, err := tlog.ReadTileData(tile, hashes)
			if err != nil {
				return count, err
			}
			if string(want) != string(data[0]) {
				return count, fmt.Errorf("tile %d/%d.p/%d differs from the entries", tile.L, tile.N, tile.W)
			}
			count++
		}
	}
	return count, nil
}

func parseHashes(lines []string) ([]tlog.Hash, error) {
	var hashes []tlog.Hash
	for _, line := range lines {
		data, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(data) != tlog.HashSize {
			return nil, fmt.Errorf("%q is not a hash", line)
		}
		var hash tlog.Hash
		copy(hash[:], data)
		hashes = append(hashes, hash)
	}
	return hashes, nil
}

// checkProof reads a c2sp.org/tlog-proof@v1 file and checks it for an entry.
func checkProof(text, entry []byte, vkey string) error {
	before, checkpoint, found := strings.Cut(string(text), "\n\n")
	lines := strings.Split(before, "\n")
	if !found || lines[0] != "c2sp.org/tlog-proof@v1" {
		return errors.New("the proof has no header or no checkpoint")
	}
	lines = lines[1:]
	if len(lines) > 0 && strings.HasPrefix(lines[0], "extra ") {
		lines = lines[1:]
	}
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "index ") {
		return errors.New("the proof has no index")
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[0], "index "), 10, 64)
	if err != nil {
		return err
	}
	hashes, err := parseHashes(lines[1:])
	if err != nil {
		return err
	}
	h, err := openHead([]byte(checkpoint), vkey)
	if err != nil {
		return err
	}
	return tlog.CheckRecord(hashes, h.tree.N, h.tree.Hash, index, tlog.RecordHash(entry))
}

// prove checks an inclusion proof made from the tile files for every entry, or for a random sample.
func prove(h head, tiles tlog.HashReader, records []tlog.Hash, sample int64) (int, error) {
	indexes := rand.Perm(len(records))
	if sample >= 0 && sample < int64(len(indexes)) {
		indexes = indexes[:sample]
	}
	for _, index := range indexes {
		proof, err := tlog.ProveRecord(h.tree.N, int64(index), tiles)
		if err != nil {
			return 0, err
		}
		if err := tlog.CheckRecord(proof, h.tree.N, h.tree.Hash, int64(index), records[index]); err != nil {
			return 0, fmt.Errorf("entry %d: %w", index, err)
		}
	}
	return len(indexes), nil
}

// checkGrowth proves the growth from old with sumdb, and checks the given proof, too, if there is a file.
func checkGrowth(h head, old int64, hashes store, tiles tlog.HashReader, file string) (tlog.Hash, error) {
	oldRoot, err := treeHash(old, hashes)
	if err != nil || old == 0 {
		return oldRoot, err
	}
	proof, err := tlog.ProveTree(h.tree.N, old, tiles)
	if err != nil {
		return oldRoot, err
	}
	if err := tlog.CheckTree(proof, h.tree.N, h.tree.Hash, old, oldRoot); err != nil {
		return oldRoot, err
	}
	if file == "" {
		return oldRoot, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return oldRoot, err
	}
	given, err := parseHashes(strings.Fields(string(text)))
	if err != nil {
		return oldRoot, err
	}
	return oldRoot, tlog.CheckTree(given, h.tree.N, h.tree.Hash, old, oldRoot)
}

func run() (*report, error) {
	dir := flag.String("dir", "", "directory with checkpoint and tile/")
	vkey := flag.String("vkey", "", "verifier key of the log")
	old := flag.Int64("old", -1, "also prove the growth from this size")
	sample := flag.Int64("sample", -1, "prove so many random entries instead of all")
	consistency := flag.String("consistency", "", "consistency proof from -old, base64 hashes")
	proofFile := flag.String("proof", "", "tlog-proof file to check")
	entryFile := flag.String("entry", "", "entry the tlog-proof is for")
	flag.Parse()

	if *proofFile != "" {
		proof, err := os.ReadFile(*proofFile)
		if err != nil {
			return nil, err
		}
		entry, err := os.ReadFile(*entryFile)
		if err != nil {
			return nil, err
		}
		if err := checkProof(proof, entry, *vkey); err != nil {
			return nil, fmt.Errorf("tlog-proof: %w", err)
		}
	}
	if *dir == "" {
		return &report{Proof: *proofFile != ""}, nil
	}
	data, err := os.ReadFile(filepath.Join(*dir, "checkpoint"))
	if err != nil {
		return nil, err
	}
	h, err := openHead(data, *vkey)
	if err != nil {
		return nil, err
	}
	var records []tlog.Hash
	var hashes store
	err = readEntries(*dir, h.tree.N, func(index int64, entry []byte) error {
		record := tlog.RecordHash(entry)
		records = append(records, record)
		more, err := tlog.StoredHashesForRecordHash(index, record, hashes)
		hashes = append(hashes, more...)
		return err
	})
	if err != nil {
		return nil, err
	}
	root, err := treeHash(h.tree.N, hashes)
	if err != nil {
		return nil, err
	}
	if root != h.tree.Hash {
		return nil, fmt.Errorf("the entries have the root %v, the checkpoint says %v", root, h.tree.Hash)
	}
	tileCount, err := checkTiles(directory(*dir), h.tree.N, hashes)
	if err != nil {
		return nil, err
	}
	tiles := tlog.TileHashReader(h.tree, directory(*dir))
	inclusions, err := prove(h, tiles, records, *sample)
	if err != nil {
		return nil, err
	}
	answer := &report{
		Origin: h.origin, Size: h.tree.N, Root: hex.EncodeToString(root[:]), Entries: int64(len(records)),
		Tiles: tileCount, Inclusions: inclusions, Proof: *proofFile != "",
	}
	if *old >= 0 {
		oldRoot, err := checkGrowth(h, *old, hashes, tiles, *consistency)
		if err != nil {
			return nil, fmt.Errorf("growth from %d: %w", *old, err)
		}
		answer.OldRoot, answer.Consistency = hex.EncodeToString(oldRoot[:]), true
	}
	return answer, nil
}

func main() {
	answer, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "readlog:", err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		os.Exit(1)
	}
}
