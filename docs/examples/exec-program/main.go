// An example of a vendor's program for the target exec: of birthmark. The "device" is a directory; replace the
// functions of device with what your fixture does. The protocol is docs/formats/exec-target.md.
//
//	acme-install [-born] [-lie "stores nothing"|"other certificate"|"other key"] DIRECTORY
package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
)

type message struct {
	Type         string   `json:"type"`
	Version      int      `json:"version,omitempty"`
	Program      string   `json:"program,omitempty"`
	Do           string   `json:"do,omitempty"`
	DeviceSerial string   `json:"device_serial,omitempty"`
	Algorithm    string   `json:"algorithm,omitempty"`
	Certificate  []byte   `json:"certificate,omitempty"`
	Chain        [][]byte `json:"chain,omitempty"`
	PrivateKey   []byte   `json:"private_key,omitempty"`
	Message      []byte   `json:"message,omitempty"`
	Signature    []byte   `json:"signature,omitempty"`
	Csr          []byte   `json:"csr,omitempty"`
	What         string   `json:"what,omitempty"`
	Granted      bool     `json:"granted,omitempty"`
	Identity     string   `json:"identity,omitempty"`
	MakesKey     *bool    `json:"makes_key,omitempty"`
	CanSign      *bool    `json:"can_sign,omitempty"`
	Who          string   `json:"who,omitempty"`
	Code         string   `json:"code,omitempty"`
}

// failure is an answer of type error: who must act, and a code of ours.
type failure struct{ who, code string }

func (f failure) Error() string { return f.code }

type station struct {
	in  *bufio.Reader
	out *json.Encoder
}

func (s station) receive() (message, error) {
	var m message
	line, err := s.in.ReadBytes('\n')
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(line, &m)
}

// leave asks before every act. Without leave, or when the station is gone, nothing more is done.
func (s station) leave(what string) error {
	if err := s.out.Encode(message{Type: "act", What: what}); err != nil {
		return err
	}
	answer, err := s.receive()
	if err == nil && !answer.Granted {
		err = failure{"later", "not.granted"}
	}
	return err
}

type device struct {
	station
	directory string
	born      bool
	lie       string
}

func (d device) read(name string) []byte {
	data, err := os.ReadFile(filepath.Join(d.directory, name))
	if err != nil {
		return nil
	}
	return data
}

// write puts a whole file in place or nothing: temporary file, sync, rename, sync of the directory.
func (d device) write(name string, data []byte) error {
	if bytes.Equal(d.read(name), data) {
		return nil
	}
	if err := d.leave("write " + name); err != nil {
		return err
	}
	if d.lie == "stores nothing" {
		return nil
	}
	path := filepath.Join(d.directory, name)
	file, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	file.Close()
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	return firstError(err, d.sync())
}

func (d device) remove(name string) error {
	if d.read(name) == nil {
		return nil
	}
	if err := d.leave("remove " + name); err != nil {
		return err
	}
	return firstError(os.Remove(filepath.Join(d.directory, name)), d.sync())
}

func (d device) sync() error {
	directory, err := os.Open(d.directory)
	if err != nil {
		return err
	}
	defer directory.Close()
	return directory.Sync()
}

func firstError(all ...error) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}

func keyOf(der []byte) *ecdsa.PrivateKey {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil
	}
	key, _ := parsed.(*ecdsa.PrivateKey)
	return key
}

func fits(key *ecdsa.PrivateKey, certificate []byte) bool {
	parsed, err := x509.ParseCertificate(certificate)
	return err == nil && key != nil && key.PublicKey.Equal(parsed.PublicKey)
}

func (d device) makeKey(asked message) (message, error) {
	if !d.born {
		return message{}, failure{"request", "key.not_made"}
	}
	if asked.Algorithm != "p256" {
		return message{}, failure{"request", "key.algorithm"}
	}
	key := keyOf(d.read("key.new"))
	if key == nil {
		made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return message{}, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(made)
		if err != nil {
			return message{}, err
		}
		if err := d.write("key.new", der); err != nil {
			return message{}, err
		}
		key = made
	}
	template := x509.CertificateRequest{Subject: pkix.Name{CommonName: asked.DeviceSerial}}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	return message{Type: "key_made", Csr: csr}, err
}

// install writes the certificate after key and chain: it is the commit point. What is there is not written again.
func (d device) install(asked message) error {
	key := asked.PrivateKey
	if d.born {
		if key = d.read("key.new"); !fits(keyOf(key), asked.Certificate) {
			key = d.read("key")
		}
	}
	if !fits(keyOf(key), asked.Certificate) {
		return failure{"device", "key.mismatch"}
	}
	var chain []byte
	for _, one := range asked.Chain {
		chain = append(chain, one...)
	}
	steps := []func() error{}
	if !bytes.Equal(d.read("key"), key) || !bytes.Equal(d.read("chain"), chain) {
		// A certificate is never seen beside somebody else's key.
		steps = append(steps, func() error { return d.remove("certificate") })
	}
	steps = append(steps,
		func() error { return d.write("key", key) },
		func() error { return d.write("chain", chain) },
		func() error { return d.write("certificate", asked.Certificate) })
	if bytes.Equal(d.read("key.new"), key) {
		steps = append(steps, func() error { return d.remove("key.new") })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (d device) prove(asked message) (message, error) {
	certificate, key := d.read("certificate"), keyOf(d.read("key"))
	if certificate == nil || key == nil {
		return message{}, failure{"device", "certificate.missing"}
	}
	var chain [][]byte
	issuers, err := x509.ParseCertificates(d.read("chain"))
	if err != nil {
		return message{}, failure{"device", "chain.damaged"}
	}
	for _, one := range issuers {
		chain = append(chain, one.Raw)
	}
	switch d.lie {
	case "other key":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "other certificate":
		certificate = issuers[0].Raw
	}
	if err != nil {
		return message{}, err
	}
	digest := sha256.Sum256(asked.Message)
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	return message{Type: "proved", Certificate: certificate, Chain: chain, Signature: signature}, err
}

func (d device) answer(asked message) (message, error) {
	yes := true
	switch asked.Do {
	case "probe":
		return message{Type: "probed", Identity: filepath.Base(d.directory), MakesKey: &d.born, CanSign: &yes,
			Certificate: d.read("certificate")}, nil
	case "make_key":
		return d.makeKey(asked)
	case "install":
		return message{Type: "installed"}, d.install(asked)
	case "prove":
		return d.prove(asked)
	}
	return message{}, failure{"station", "request.unknown"}
}

func main() {
	born := flag.Bool("born", false, "the key is made in the device")
	lie := flag.String("lie", "", "what the device lies about, for tests")
	flag.Parse()
	s := station{bufio.NewReaderSize(os.Stdin, 1<<20), json.NewEncoder(os.Stdout)}
	if _, err := s.receive(); err != nil {
		os.Exit(1)
	}
	s.out.Encode(message{Type: "hello", Version: 1, Program: "acme-install 1.0"})
	asked, err := s.receive()
	if err != nil {
		os.Exit(1)
	}
	// Stations skip what they do not know: say what helps you.
	s.out.Encode(map[string]string{"type": "note", "text": "fixture 3 closed"})
	answer, err := device{s, flag.Arg(0), *born, *lie}.answer(asked)
	var known failure
	if errors.As(err, &known) {
		answer = message{Type: "error", Who: known.who, Code: known.code}
	} else if err != nil {
		answer = message{Type: "error", Who: "station", Code: "fixture.failed"}
	}
	s.out.Encode(answer)
}
