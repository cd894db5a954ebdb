package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"time"

	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// Lifetimes as kubeadm's.
const (
	authorityLifetime   = 10 * 365 * 24 * time.Hour
	certificateLifetime = 365 * 24 * time.Hour
	// clockSkew is how far in the past an authority's validity starts.
	clockSkew = 5 * time.Minute
)

// keyAlgorithm is one of those kubeadm offers.
type keyAlgorithm int

const (
	rsa2048 keyAlgorithm = iota
	ecdsaP256
)

func parseKeyAlgorithm(name string) (keyAlgorithm, error) {
	switch name {
	case "RSA-2048":
		return rsa2048, nil
	case "ECDSA-P256":
		return ecdsaP256, nil
	}
	return 0, fmt.Errorf("%q is neither RSA-2048 nor ECDSA-P256", name)
}

func (a keyAlgorithm) generate() (crypto.Signer, error) {
	if a == ecdsaP256 {
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	return rsa.GenerateKey(rand.Reader, 2048)
}

// pair is a certificate and its private key.
type pair struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

func (p pair) certificatePEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certutil.CertificateBlockType, Bytes: p.certificate.Raw})
}

func (p pair) keyPEM() ([]byte, error) {
	return keyutil.MarshalPrivateKeyToPEM(p.key)
}

// newAuthority makes a self-signed certificate authority.
func newAuthority(algorithm keyAlgorithm, commonName string) (pair, error) {
	key, err := algorithm.generate()
	if err != nil {
		return pair{}, err
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		DNSNames:              []string{commonName},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(authorityLifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	return sign(template, key, template, key)
}

// subject is what an issued certificate says.
type subject struct {
	commonName    string
	organizations []string
	usage         x509.ExtKeyUsage
	names         []string // DNS names and addresses
}

// issue signs a certificate for a new key.
func (p pair) issue(algorithm keyAlgorithm, s subject) (pair, error) {
	key, err := algorithm.generate()
	if err != nil {
		return pair{}, err
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: s.commonName, Organization: s.organizations},
		NotBefore:   p.certificate.NotBefore,
		NotAfter:    time.Now().Add(certificateLifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{s.usage},
	}
	for _, name := range s.names {
		if address := net.ParseIP(name); address != nil {
			template.IPAddresses = append(template.IPAddresses, address)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return sign(template, key, p.certificate, p.key)
}

func sign(template *x509.Certificate, key crypto.Signer, issuer *x509.Certificate, issuerKey crypto.Signer) (pair, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return pair{}, err
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
	if err != nil {
		return pair{}, err
	}
	certificate, err := x509.ParseCertificate(der)
	return pair{certificate, key}, err
}

// readPair returns an error matching fs.ErrNotExist when either file is missing.
func readPair(base string) (pair, error) {
	certificates, err := certutil.CertsFromFile(base + ".crt")
	if err != nil {
		return pair{}, err
	}
	text, err := os.ReadFile(base + ".key")
	if err != nil {
		return pair{}, err
	}
	private, err := keyutil.ParsePrivateKeyPEM(text)
	if err != nil {
		return pair{}, fmt.Errorf("%s.key: %w", base, err)
	}
	key, ok := private.(crypto.Signer)
	if !ok {
		return pair{}, fmt.Errorf("%s.key: not a signing key", base)
	}
	return pair{certificates[0], key}, nil
}

func (p pair) write(base string) error {
	key, err := p.keyPEM()
	if err != nil {
		return err
	}
	if err := os.WriteFile(base+".key", key, 0o600); err != nil {
		return err
	}
	return os.WriteFile(base+".crt", p.certificatePEM(), 0o644)
}

// reuse keeps the pair in base when it is there, was issued by the given
// authority and covers the given names; otherwise it makes and writes one.
func reuse(base string, authority *pair, names []string, create func() (pair, error)) (pair, error) {
	existing, err := readPair(base)
	switch {
	case err == nil && existing.usable(authority, names):
		return existing, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return pair{}, err
	}
	created, err := create()
	if err != nil {
		return pair{}, err
	}
	return created, created.write(base)
}

func (p pair) usable(authority *pair, names []string) bool {
	if time.Now().After(p.certificate.NotAfter) {
		return false
	}
	if authority != nil && p.certificate.CheckSignatureFrom(authority.certificate) != nil {
		return false
	}
	for _, name := range names {
		if p.certificate.VerifyHostname(name) != nil {
			return false
		}
	}
	return true
}

func publicKeyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyutil.PublicKeyBlockType, Bytes: der}), nil
}
