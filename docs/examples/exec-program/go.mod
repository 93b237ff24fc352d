module example.com/acme-install

go 1.19
