"""Certificates for shop.example.com and blog.example.com, which nobody else trusts."""
import subprocess


class Certs:
    def __init__(self, directory):
        self.pairs, self.bundle = [], f"{directory}/all.pem"
        for name in ("shop", "blog"):
            host, cert, key = f"{name}.example.com", f"{directory}/{name}.pem", f"{directory}/{name}.key"
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                            "-days", "30", "-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}",
                            "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", key, "-out", cert],
                           check=True, capture_output=True, timeout=60)
            self.pairs.append((name, cert, key))
        with open(self.bundle, "w") as bundle:
            for _, cert, _ in self.pairs:
                with open(cert) as file:
                    bundle.write(file.read())
