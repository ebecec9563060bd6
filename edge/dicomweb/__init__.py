"""DICOMweb as a client: requests, answers, logins; knows no queue."""
