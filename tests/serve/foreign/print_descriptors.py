"""The definitions that tritonclient has, as JSON: file name -> FileDescriptorProto in hexadecimal."""

import json

import tritonclient.grpc.model_config_pb2 as config
import tritonclient.grpc.service_pb2 as service
from google.protobuf.descriptor_pb2 import FileDescriptorProto


def definition(descriptor):
    proto = FileDescriptorProto()
    descriptor.CopyToProto(proto)
    return proto.SerializeToString().hex()


print(json.dumps({one.DESCRIPTOR.name: definition(one.DESCRIPTOR) for one in (config, service)}))
